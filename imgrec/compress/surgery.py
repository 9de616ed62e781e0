"""Record of structural changes of a network after it was built from its specs, and rebuilding from the record."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils import parametrize

from imgrec.errors import UserError, suggestion

M = TypeVar("M", bound=nn.Module)

Step = dict[str, Any]
"""Plain data for JSON. The key ``step`` is the name of the change, and the other keys are its arguments."""

Apply = Callable[[nn.Module, Mapping[str, Any]], nn.Module]
"""Function that applies a step to a network in the state before the step, and returns that network or a new one."""

A = TypeVar("A", bound=Apply)

Merge = Callable[[Step, Step], Step]
"""Function that returns one step which is equivalent to two consecutive steps."""


@dataclass(frozen=True)
class _Kind:
    apply: Apply
    merge: Merge | None


_KINDS: dict[str, _Kind] = {}


def surgical(name: str, merge: Merge | None = None) -> Callable[[A], A]:
    """Register the function that applies the step ``name``, as a decorator.

    The function raises :class:`imgrec.errors.UserError` if the step does not fit the network. It must not require a
    library that is only needed to compute the step, such as a pruning library.

    Args:
        name: Name of the step.
        merge: Function that merges two consecutive steps of this name. Defaults to no merging.

    Raises:
        ValueError: If the name is already registered.
    """

    def add(apply: A) -> A:
        if name in _KINDS:
            raise ValueError(f'the surgery step "{name}" is already registered')
        _KINDS[name] = _Kind(apply, merge)
        return apply

    return add


def surgery_of(model: nn.Module) -> list[Step]:
    """Return a copy of the steps that changed ``model`` after it was built from its specs."""
    found: list[Step] = json.loads(json.dumps(getattr(model, "surgery", [])))
    return found


def note_step(model: nn.Module, step: Step) -> None:
    """Append a step to the record of ``model``, merged with the last step if both have the same name."""
    steps = [*surgery_of(model), json.loads(json.dumps(step))]
    if len(steps) > 1 and steps[-2]["step"] == step["step"]:
        merge = _KINDS[step["step"]].merge
        if merge is not None:
            steps[-2:] = [merge(*steps[-2:])]
    model.surgery = steps  # type: ignore[assignment]


def refuse_quantized(model: nn.Module) -> None:
    """Raise if a network was quantized, because its activation ranges belong to the unpruned layers.

    Raises:
        UserError: If it was.
    """
    if any(step["step"] == "qat" for step in surgery_of(model)):
        raise UserError("this network was trained for int8 and cannot be pruned. Prune before quantization.")


def refuse_parametrized(model: nn.Module) -> None:
    """Raise if a network has a weight that is computed from other tensors, for example by LoRA.

    Raises:
        UserError: If it has.
    """
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            source = next(each for each in module.get_submodule("parametrizations").modules() if _computes(each))
            raise UserError(
                f"{name}: its weight is computed from other tensors ({type(source).__name__}) and can be neither "
                "pruned nor quantized. Train first, and compress the model folder."
            )


def _computes(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleDict | parametrize.ParametrizationList)


def surgical_copy(model: M) -> M:
    """Return a copy of a network for surgery, without hooks and gradients."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(module, hooks).clear()
    return copied


def rebuild(
    model: nn.Module, steps: Sequence[Mapping[str, Any]], title: str = "the record of its surgery"
) -> nn.Module:
    """Apply recorded steps to a network that was built from its specs. Its weights are loaded afterwards.

    No code is unpickled, and the libraries that computed the steps are not required.

    Args:
        model: Network without surgery. It is changed in place if the steps allow it.
        steps: Steps returned by :func:`surgery_of` for another network of the same specs.
        title: Location of the record, for messages.

    Returns:
        The network with ``steps`` as its record.

    Raises:
        UserError: If a step is unknown or does not fit the network.
    """
    if surgery_of(model):
        raise ValueError("the network already has surgery")
    if not isinstance(steps, Sequence) or not all(isinstance(step, Mapping) for step in steps):
        raise UserError(f"{title} is not a list of steps")
    for step in steps:
        kind = _KINDS.get(str(step.get("step")))
        if kind is None:
            name = str(step.get("step"))
            raise UserError(
                f'{title}: unknown step "{name}".{suggestion(name, _KINDS)} Accepted: {", ".join(sorted(_KINDS))}.'
            )
        try:
            model = kind.apply(model, step)
        except UserError as error:
            raise UserError(f"{title}: {error}") from error
    model.surgery = json.loads(json.dumps(list(steps)))
    return model
