"""What an optimizer keeps of each weight, after channels or blocks were removed: cut as the weights were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgrec.compress.pruning.widths import select
from imgrec.errors import UserError


def check_states(optimizer: Optimizer) -> None:
    """Raise :class:`UserError` where an optimizer keeps what is neither a number nor of its parameter's shape.

    Averages over rows and columns, say, cannot be cut to the channels that stay.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.numel() > 1 and value.shape != parameter.shape:
                raise UserError(
                    f"{type(optimizer).__name__} keeps `{name}` of shape {tuple(value.shape)} for a weight of shape "
                    f"{tuple(parameter.shape)}, which cannot be cut to fewer channels: take sgd, nesterov or adamw."
                )


@torch.no_grad()
def cut_states(optimizer: Optimizer, shapes: Mapping[Tensor, torch.Size], kept: Mapping[Tensor, Tensor]) -> None:
    """Cut momentum, moments and whatever else has the shape of a weight, in place; numbers, such as steps, stay.

    The groups, their learning rates and what a schedule holds of them stay, too.

    Args:
        optimizer: holds the parameters, which have been cut already.
        shapes: the shapes that the parameters had.
        kept: for each parameter that was cut, int64 indices into the flattened old one, in the new shape.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    >>> optimizer.state[weight]["momentum_buffer"] = torch.tensor([1.0, 2.0, 3.0])
    >>> cut_states(optimizer, {weight: torch.Size([3])}, {weight: torch.tensor([0, 2])})
    >>> optimizer.state[weight]["momentum_buffer"]
    tensor([1., 3.])
    """
    for parameter, state in optimizer.state.items():
        if parameter in kept:
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == shapes[parameter]:
                    state[name] = select(value, kept[parameter])


def leave_out(optimizer: Optimizer, gone: Sequence[nn.Parameter]) -> None:
    """Take parameters that no longer exist out of an optimizer's groups, and their states with them."""
    ids = {id(parameter) for parameter in gone}
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    for parameter in gone:
        optimizer.state.pop(parameter, None)
