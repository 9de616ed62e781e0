"""Update of the optimizer state after channels or blocks were removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgrec.compress.pruning.widths import select
from imgrec.errors import UserError


def check_states(optimizer: Optimizer) -> None:
    """Raise if an optimizer has a state that is neither a scalar nor has the shape of its parameter.

    For example, factored averages over rows and columns cannot be pruned.

    Raises:
        UserError: If it has.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameter.shape:
                raise UserError(
                    f"{type(optimizer).__name__} keeps `{name}` of shape {tuple(value.shape)} for a weight of shape "
                    f"{tuple(parameter.shape)}, which cannot be pruned to fewer channels. Use sgd, nesterov or adamw."
                )


@torch.no_grad()
def cut_states(optimizer: Optimizer, shapes: Mapping[Tensor, torch.Size], indices: Mapping[Tensor, Tensor]) -> None:
    """Prune momentum and all other states with the shape of a weight, in place.

    Scalars such as step counters, the parameter groups and their learning rates are unchanged.

    Args:
        optimizer: Optimizer of the parameters, which are already pruned.
        shapes: Shapes of the parameters before.
        indices: Indices of the remaining values of each pruned parameter, int64 into the flattened old parameter, in
            the new shape.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        >>> optimizer.state[weight]["momentum_buffer"] = torch.tensor([1.0, 2.0, 3.0])
        >>> cut_states(optimizer, {weight: torch.Size([3])}, {weight: torch.tensor([0, 2])})
        >>> optimizer.state[weight]["momentum_buffer"]
        tensor([1., 3.])
    """
    for parameter, state in optimizer.state.items():
        if parameter in indices:
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == shapes[parameter]:
                    state[name] = select(value, indices[parameter])


def remove_parameters(optimizer: Optimizer, removed: Sequence[nn.Parameter]) -> None:
    """Remove parameters from the groups of an optimizer, together with their states."""
    ids = {id(parameter) for parameter in removed}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    for parameter in removed:
        optimizer.state.pop(parameter, None)
