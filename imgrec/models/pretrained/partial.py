"""Weights that fit a network in part: what fits is taken over, and all that was not is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.models.pretrained.resampling import resampled
from imgrec.models.utils.layers import SHORT, listed

_ORIGINAL = re.compile(r"\.parametrizations\.(\w+)\.original$")


@dataclass(frozen=True)
class Taken:
    """What became of the tensors of one network when another was to start from them, by their names.

    Args:
        source: where they were.
        taken: they are the network's now.
        resampled: likewise, made for other images; with both shapes.
        unlike: of another shape; with both.
        other_classes: what is about classes, which are others.
        left_out: outside what was asked for.
        unknown: the network has no such tensor.
        fresh: tensors of the network that stay as they were initialized.
        parameters: how many numbers of the network were taken over.
        of: how many it has.
    """

    source: str
    taken: tuple[str, ...]
    resampled: dict[str, str]
    unlike: dict[str, str]
    other_classes: tuple[str, ...]
    left_out: tuple[str, ...]
    unknown: tuple[str, ...]
    fresh: tuple[str, ...]
    parameters: int
    of: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        """A line of what was taken over, and one for each thing that was not."""
        count = len(self.taken) + len(self.resampled)
        lines = [
            f"{count} of {count + len(self.fresh)} tensors from {self.source}, "
            f"{self.parameters:,} of {self.of:,} parameters"
        ]
        for what, names in (
            ("resampled", [f"{name} {how}" for name, how in self.resampled.items()]),
            ("of another shape, not taken", [f"{name} {how}" for name, how in self.unlike.items()]),
            ("of other classes, not taken", list(self.other_classes)),
            ("left out", list(self.left_out)),
            ("not in this network", list(self.unknown)),
            ("as initialized", [n for n in self.fresh if n not in self.unlike and n not in self.other_classes]),
        ):
            short = [name.removeprefix(SHORT) for name in names if "num_batches_tracked" not in name]
            if short:
                more = f" and {len(short) - 6} more" if len(short) > 6 else ""
                lines.append(f"  {what}: {', '.join(short[:6])}{more}")
        return "\n".join(lines)


def take_over(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    wanted: Callable[[str], bool] = lambda name: True,
    of_classes: Callable[[str], bool] = lambda name: False,
) -> Taken:
    """Load what fits of ``state`` into ``model``, by name and by shape.

    Args:
        model: gets the tensors, in its own types; what is not taken over stays.
        state: tensors by the names of ``model``.
        source: where they are from, for messages.
        wanted: whether a tensor is to be taken over.
        of_classes: whether a tensor is about classes that are others there, and so is not.

    Returns:
        What became of each.

    Raises:
        UserError: not one parameter fits.

    >>> net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> print(take_over(net, {"weight": other.weight.data, "bias": torch.ones(3)}, "there"))
    1 of 2 tensors from there, 4 of 6 parameters
      of another shape, not taken: bias (3,), here (2,)
    """
    own = model.state_dict()
    state = _as_parametrized(state, own)
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    changed, unlike = dict[str, str](), dict[str, str]()
    classes, left, unknown = list[str](), list[str](), list[str]()
    for name, value in state.items():
        if name not in own:
            unknown.append(name)
        elif not wanted(name):
            left.append(name)
        elif of_classes(name):
            classes.append(name)
        elif value.shape == own[name].shape:
            found[name] = value
        else:
            shapes = f"{tuple(value.shape)}, here {tuple(own[name].shape)}"
            made = resampled(model, name, value) if name in parameters else None
            if made is None:
                unlike[name] = shapes
            else:
                found[name], changed[name] = made, shapes
    if not any(name in parameters for name in found):
        raise UserError(f"{source}: {_nothing(own, state, unknown, unlike)}")
    with torch.no_grad():
        for name, value in found.items():
            own[name].copy_(value)
    return Taken(
        source=source,
        taken=tuple(name for name in found if name not in changed),
        resampled=changed,
        unlike=unlike,
        other_classes=tuple(classes),
        left_out=tuple(left),
        unknown=tuple(unknown),
        fresh=tuple(name for name in own if name not in found),
        parameters=sum(parameters.get(name, 0) for name in found),
        of=sum(parameters.values()),
    )


def _as_parametrized(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``state`` with the names that weights have where they are parametrized, as LoRA's are."""
    plain = {_ORIGINAL.sub(r".\1", name): name for name in own}
    return {name if name in own else plain.get(name, name): value for name, value in state.items()}


def _nothing(own: Mapping[str, Tensor], state: Mapping[str, Tensor], unknown: list[str], unlike: dict[str, str]) -> str:
    if unlike:
        name, shapes = next(iter(unlike.items()))
        return f"not one parameter of it can be taken over; {name} is {shapes}"
    if unknown:
        hint = suggestion(unknown[0], list(own))
        return (
            f"not one parameter of it can be taken over; its tensors are called {listed(unknown, 4)}, this network's "
            f"{listed(list(own), 4)}.{hint} `rename` puts other words at the beginning of names."
        )
    return f"not one parameter of it can be taken over; it holds {len(state)} tensors, all of them left out"
