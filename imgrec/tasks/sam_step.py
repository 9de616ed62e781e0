"""The two passes of a sharpness-aware training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.models.utils.forward import frozen_batch_stats, same_rng
from imgrec.optim.optimizers.sam import SharpnessAware
from imgrec.optim.optimizers.wrapper import trained_parameters


def sam_loss(
    optimizer: SharpnessAware,
    model: nn.Module,
    first: Callable[[], Tensor],
    second: Callable[[], Tensor],
    scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Compute the loss at the perturbed weights, which stay perturbed until ``optimizer.restore()``.

    The gradient of the perturbation is that of this process and this batch. It does not change ``.grad``, is not
    reduced over processes and is not accumulated. Both passes use the same random numbers, and only the first one
    updates running statistics.

    Args:
        optimizer: Optimizer that perturbs its parameters.
        model: Model whose running statistics stay unchanged in the second pass.
        first: Function that computes the loss at the weights.
        second: Function that computes the loss at the perturbed weights.
        scale: Function that scales a loss against underflow of its gradients, as a gradient scaler does. Defaults to
            None.
    """
    optimizer.restore()  # the previous step may have been interrupted between its passes
    parameters = trained_parameters(optimizer)
    with same_rng(parameters[0].device):
        loss = first()
    with torch.autocast(loss.device.type, enabled=False):
        gradients = torch.autograd.grad(loss if scale is None else scale(loss), parameters, allow_unused=True)
    optimizer.perturb(gradients)
    try:
        with frozen_batch_stats(model):
            return second()
    except BaseException:
        optimizer.restore()
        raise


def loss_scale(trainer: Any) -> Callable[[Tensor], Tensor] | None:
    """Return the function that scales a loss before the backward pass in this precision, or ``None`` without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else scaler.scale
