"""Partial loading of weights: matching tensors are loaded, and all others are reported."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.models.pretrained.resampling import resample_to
from imgrec.models.utils.layers import SHORT, listed

_ORIGINAL = re.compile(r"\.parametrizations\.(\w+)\.original$")


@dataclass(frozen=True)
class PartialLoad:
    """Report of a partial load: for each tensor, by name, if it was loaded and why not.

    Args:
        source: Origin of the tensors.
        taken: Loaded tensors of equal shape.
        resampled: Tensors loaded after resampling to another image size, with both shapes.
        unlike: Tensors of another shape, with both shapes.
        other_classes: Tensors that depend on the classes, which differ.
        left_out: Tensors outside the selected scope.
        unknown: Tensors that the network does not contain.
        fresh: Tensors of the network that keep their initialization.
        parameters: Number of loaded parameter values.
        of: Number of all parameter values of the network.
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
        """Return the report as plain data for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def __str__(self) -> str:
        """Return a line with the loaded tensors, and a line for each reason why others were not loaded."""
        count = len(self.taken) + len(self.resampled)
        lines = [
            f"{count} of {count + len(self.fresh)} tensors from {self.source}, "
            f"{self.parameters:,} of {self.of:,} parameters"
        ]
        for result, names in (
            ("resampled", [f"{name} {shapes}" for name, shapes in self.resampled.items()]),
            ("of another shape, not loaded", [f"{name} {shapes}" for name, shapes in self.unlike.items()]),
            ("of other classes, not loaded", list(self.other_classes)),
            ("excluded", list(self.left_out)),
            ("not in this network", list(self.unknown)),
            ("initialized", [n for n in self.fresh if n not in self.unlike and n not in self.other_classes]),
        ):
            short = [name.removeprefix(SHORT) for name in names if "num_batches_tracked" not in name]
            if short:
                more = f" and {len(short) - 6} more" if len(short) > 6 else ""
                lines.append(f"  {result}: {', '.join(short[:6])}{more}")
        return "\n".join(lines)


def load_partially(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    is_selected: Callable[[str], bool] = lambda name: True,
    depends_on_classes: Callable[[str], bool] = lambda name: False,
) -> PartialLoad:
    """Load the tensors of ``state`` that match ``model`` by name and shape.

    Args:
        model: Network that receives the tensors, converted to its types. Other tensors are unchanged.
        state: Tensors by their names in ``model``.
        source: Origin of the tensors for messages.
        is_selected: Function that returns True if the tensor of a name is to be loaded. Defaults to all.
        depends_on_classes: Function that returns True if a tensor depends on classes that differ. Defaults to none.

    Returns:
        Report for each tensor.

    Raises:
        UserError: If no parameter matches.

    >>> net, other = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> print(load_partially(net, {"weight": other.weight.data, "bias": torch.ones(3)}, "there"))
    1 of 2 tensors from there, 4 of 6 parameters
      of another shape, not loaded: bias (3,), here (2,)
    """
    own = model.state_dict()
    state = _as_parametrized(state, own)
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    found: dict[str, Tensor] = {}
    changed, unlike = dict[str, str](), dict[str, str]()
    classes, excluded, unknown = list[str](), list[str](), list[str]()
    for name, value in state.items():
        if name not in own:
            unknown.append(name)
        elif not is_selected(name):
            excluded.append(name)
        elif depends_on_classes(name):
            classes.append(name)
        elif value.shape == own[name].shape:
            found[name] = value
        else:
            shapes = f"{tuple(value.shape)}, here {tuple(own[name].shape)}"
            resampled = resample_to(model, name, value) if name in parameters else None
            if resampled is None:
                unlike[name] = shapes
            else:
                found[name], changed[name] = resampled, shapes
    if not any(name in parameters for name in found):
        raise UserError(f"{source}: {_mismatch(own, state, unknown, unlike)}")
    with torch.no_grad():
        for name, value in found.items():
            own[name].copy_(value)
    return PartialLoad(
        source=source,
        taken=tuple(name for name in found if name not in changed),
        resampled=changed,
        unlike=unlike,
        other_classes=tuple(classes),
        left_out=tuple(excluded),
        unknown=tuple(unknown),
        fresh=tuple(name for name in own if name not in found),
        parameters=sum(parameters.get(name, 0) for name in found),
        of=sum(parameters.values()),
    )


def _as_parametrized(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``state`` with the names of parametrized weights, such as those of LoRA."""
    plain = {_ORIGINAL.sub(r".\1", name): name for name in own}
    return {name if name in own else plain.get(name, name): value for name, value in state.items()}


def _mismatch(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], unknown: list[str], unlike: dict[str, str]
) -> str:
    if unlike:
        name, shapes = next(iter(unlike.items()))
        return f"no parameter matches this network. The shape of {name} is {shapes}."
    if unknown:
        hint = suggestion(unknown[0], list(own))
        return (
            f"no parameter matches this network. Its tensors are {listed(unknown, 4)}, and the network has "
            f"{listed(list(own), 4)}.{hint} Set `rename` to replace the beginning of names."
        )
    return f"no parameter was loaded. It contains {len(state)} tensors, all of them excluded."
