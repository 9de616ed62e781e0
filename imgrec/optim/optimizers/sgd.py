"""Stochastic gradient descent whose fused kernel accepts parameters that start training later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SGD(torch.optim.SGD):
    """SGD of torch, also for parameters that get their first gradient later, after unfreezing or loss of their state.

    The fused kernel of torch requires momentum buffers of all parameters or of none, and fails otherwise. Here a
    missing buffer is initialized so that the kernel computes the result of a first step. Without dampening the value is
    zero. Everything else is unchanged.

    Source: ``torch.optim.SGD``, whose other implementations initialize a missing buffer with the gradient.

    >>> early, late = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> optimizer = SGD([early, late], lr=1.0, momentum=0.9, fused=True)
    >>> early.grad = torch.ones(1)
    >>> optimizer.step()
    >>> late.grad = torch.ones(1)
    >>> optimizer.step()
    >>> late.item()
    -1.0
    """

    def _init_group(
        self,
        group: dict[str, Any],
        params: list[Tensor],
        grads: list[Tensor],
        momentum_buffer_list: list[Tensor | None],
    ) -> bool:
        sparse: bool = super()._init_group(group, params, grads, momentum_buffer_list)  # type: ignore[no-untyped-call]
        if group["fused"] and group["momentum"] and any(buffer is not None for buffer in momentum_buffer_list):
            for i, buffer in enumerate(momentum_buffer_list):
                if buffer is None:
                    momentum_buffer_list[i] = first_buffer(params[i], grads[i], group)
        return sparse


@torch.no_grad()
def first_buffer(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
    """Return the buffer ``b`` for which ``momentum * b + (1 - dampening) * d = d``, with the direction ``d`` of a step.

    Args:
        parameter: Weights before the step.
        gradient: Gradient of the weights.
        group: Parameter group with ``momentum`` above 0, ``dampening``, ``weight_decay`` and ``maximize``.
    """
    buffer = torch.zeros_like(parameter)
    if group["dampening"]:
        direction = (-gradient if group["maximize"] else gradient).add(parameter, alpha=group["weight_decay"])
        buffer.add_(direction, alpha=group["dampening"] / group["momentum"])
    return buffer


def unfuse(optimizer: torch.optim.Optimizer) -> None:
    """Disable the fused kernel of an optimizer that imgrec did not build, because it cannot add a buffer later.

    Args:
        optimizer: Any optimizer. Only ``torch.optim.SGD`` with momentum is changed.
    """
    if type(optimizer) is torch.optim.SGD:
        for group in optimizer.param_groups:
            if group["fused"] and group["momentum"]:
                group["fused"] = False
                optimizer._step_supports_amp_scaling = False
