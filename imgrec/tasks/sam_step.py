"""The two passes of a sharpness-aware training step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.models.utils.passes import frozen_batch_stats, same_rng
from imgrec.optim.optimizers.sam import SharpnessAware
from imgrec.optim.optimizers.wrapper import trained_parameters


def sam_loss(
    optimizer: SharpnessAware,
    model: nn.Module,
    first: Callable[[], Tensor],
    second: Callable[[], Tensor],
    scale: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The loss at the worst point near the weights, where they stand until ``optimizer.restore()``.

    The gradient that leads there is that of this process and of this batch, and touches no ``.grad``: nothing is
    gathered from other processes, or added to what was accumulated. Both passes draw the same random numbers, and only
    the first one counts for running statistics.

    Args:
        optimizer: says how far to go; its parameters are moved.
        model: the network, whose running statistics the second pass leaves alone.
        first: computes the loss at the weights.
        second: computes it once more.
        scale: what is done to a loss against underflow of its gradients, as a gradient scaler does it.
    """
    optimizer.restore()  # where a step was broken off between its passes
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
    """Return the function that scales a loss before its backward in the trainer's precision; ``None`` without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else scaler.scale
