"""The record of what changed a network after its specs built it, and the way from the record to such a network."""

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
"""Plain data, as JSON holds it: the key ``step`` names what was done, the others say how it is done again."""

Apply = Callable[[nn.Module, Mapping[str, Any]], nn.Module]
"""Does a step to a network as its specs and the steps before made it; gives that network, or what takes its place."""

A = TypeVar("A", bound=Apply)

Merge = Callable[[Step, Step], Step]
"""One step in the place of two that follow one another."""


@dataclass(frozen=True)
class _Kind:
    apply: Apply
    merge: Merge | None


_KINDS: dict[str, _Kind] = {}


def surgical(name: str, merge: Merge | None = None) -> Callable[[A], A]:
    """Register how the step ``name`` is done; a function decorator. A name that is taken raises ``ValueError``.

    The function raises :class:`imgrec.errors.UserError` where the network is not one that the step was recorded on. It
    needs no library that only the making of the step needed.
    """

    def add(apply: A) -> A:
        if name in _KINDS:
            raise ValueError(f'the surgical step "{name}" is registered already')
        _KINDS[name] = _Kind(apply, merge)
        return apply

    return add


def surgery_of(model: nn.Module) -> list[Step]:
    """What was done to ``model`` since its specs built it; a copy, to be kept as it is now."""
    found: list[Step] = json.loads(json.dumps(getattr(model, "surgery", [])))
    return found


def note_step(model: nn.Module, step: Step) -> None:
    """Add a step that was done to ``model`` to its record."""
    steps = [*surgery_of(model), json.loads(json.dumps(step))]
    if len(steps) > 1 and steps[-2]["step"] == step["step"]:
        merge = _KINDS[step["step"]].merge
        if merge is not None:
            steps[-2:] = [merge(*steps[-2:])]
    model.surgery = steps  # type: ignore[assignment]


def refuse_rounded(model: nn.Module) -> None:
    """Raise :class:`UserError` for a network that rounds as int8 does: its bounds are of the layers as they are."""
    if any(step["step"] == "qat" for step in surgery_of(model)):
        raise UserError("this network was trained for int8; prune before that")


def refuse_parametrized(model: nn.Module) -> None:
    """Raise :class:`UserError` for a network with a weight that is computed from other tensors, as LoRA's are."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            made = next(each for each in module.get_submodule("parametrizations").modules() if _computes(each))
            raise UserError(
                f"{name} has its weight computed from other tensors ({type(made).__name__}), which cannot be pruned or "
                "rounded; train first, and compress what the model folder holds"
            )


def _computes(module: nn.Module) -> bool:
    return not isinstance(module, nn.ModuleDict | parametrize.ParametrizationList)


def surgical_copy(model: M) -> M:
    """A copy to operate on: without hooks, gradients and compilation, which are the training's."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
            getattr(module, hooks).clear()
    return copied


def rebuild(
    model: nn.Module, steps: Sequence[Mapping[str, Any]], title: str = "the record of its surgery"
) -> nn.Module:
    """Do to ``model``, as its specs build it, what the record of another one says; its weights are loaded afterwards.

    No code is unpickled, and nothing is needed of the libraries that made the other one.

    Args:
        model: a network without surgery; it is changed in place where the steps can be.
        steps: what :func:`surgery_of` gave.
        title: where the record stands, for messages.

    Returns:
        The network, whose own record is ``steps`` from then on.

    Raises:
        UserError: a step is unknown, or does not fit the network.
    """
    if surgery_of(model):
        raise ValueError("the network has had its surgery already")
    if not isinstance(steps, Sequence) or not all(isinstance(step, Mapping) for step in steps):
        raise UserError(f"{title} is not a list of steps")
    for step in steps:
        kind = _KINDS.get(str(step.get("step")))
        if kind is None:
            name = str(step.get("step"))
            raise UserError(
                f'{title} names a step "{name}" that this imgrec does not know.{suggestion(name, _KINDS)} '
                f"Known: {', '.join(sorted(_KINDS))}."
            )
        try:
            model = kind.apply(model, step)
        except UserError as error:
            raise UserError(f"{title}: {error}") from error
    model.surgery = json.loads(json.dumps(list(steps)))
    return model
