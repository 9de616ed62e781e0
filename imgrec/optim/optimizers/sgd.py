"""Stochastic gradient descent whose fused kernel accepts parameters that begin to train later than others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class SGD(torch.optim.SGD):
    """torch's SGD, for parameters that get their first gradient after others: they were frozen, or have lost a state.

    torch's fused kernel requires momentum buffers of all parameters or of none, and fails on the rest. Here a buffer
    that is missing begins with a value from which the kernel computes what it computes in a first step. That value is
    zero without dampening. Everything else is torch's.

    Source: ``torch.optim.SGD``, whose other implementations begin a missing buffer with the gradient.

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
        parameter: The weights before the step.
        gradient: Their gradient.
        group: The parameter group: momentum, above 0; dampening; weight decay; maximize.
    """
    buffer = torch.zeros_like(parameter)
    if group["dampening"]:
        direction = (-gradient if group["maximize"] else gradient).add(parameter, alpha=group["weight_decay"])
        buffer.add_(direction, alpha=group["dampening"] / group["momentum"])
    return buffer


def unfuse(optimizer: torch.optim.Optimizer) -> None:
    """Turn the fused kernel off in an optimizer that was not built by imgrec and cannot begin a buffer later.

    Args:
        optimizer: Any optimizer; only torch's own SGD with momentum is changed.
    """
    if type(optimizer) is torch.optim.SGD:
        for group in optimizer.param_groups:
            if group["fused"] and group["momentum"]:
                group["fused"] = False
                optimizer._step_supports_amp_scaling = False
