"""A plan of compression: steps in an order that makes sense, and the name of what they make."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imgrec.compress.pruning.targets import parse_target
from imgrec.compress.pruning.targets import said as words
from imgrec.compress.steps import STEPS, CompressionStep, DropResidualBlocks, Finetune, Mask, Prune, Qat, Quantize
from imgrec.errors import UserError, suggestion
from imgrec.registry import Spec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEYS = ("name", "steps", "variants", "max_drop")


@dataclass(frozen=True)
class Plan:
    """The steps that make one variant of a trained network, and the accuracy that all of them together may cost.

    Args:
        name: name of the variant.
        steps: the steps, in order.
        max_drop: points of accuracy that the variant may lose against the run that it is made from, after all steps, 0
            to 100. ``None``: the loss is measured, and nothing follows from it.

    >>> plan = Plan.of([{"name": "prune", "target": {"macs": 0.5}}, {"name": "finetune", "epochs": 2}, "quantize"])
    >>> plan.name
    'macs0.5-finetune2-int8'
    """

    name: str
    steps: tuple[CompressionStep, ...]
    max_drop: float | None = None

    @classmethod
    def of(
        cls, specs: Sequence[Spec], name: str | None = None, where: str = "plan", max_drop: float | None = None
    ) -> Plan:
        """The plan of some specs of :data:`imgrec.compress.steps.STEPS`.

        Args:
            specs: in the order in which the steps are taken.
            name: what the variant is called; by default what its steps are called.
            where: the place, for messages.
            max_drop: points of accuracy that the whole plan may cost, 0 to 100.

        Raises:
            UserError: a step or an argument is unknown or refused, the order makes no sense, or the budget is out of
                its range.
        """
        check_budget(max_drop, where)
        if isinstance(specs, str | Mapping) or not isinstance(specs, Sequence):
            raise UserError(f"{where}: expected a list of steps, got {specs!r}")
        steps = tuple(STEPS.build(spec, f"{where}[{i}]") for i, spec in enumerate(specs))
        check_order(steps, where)
        if name is None:
            name = "-".join(step.label for step in steps)
            name = f"control-{name}" if all(isinstance(step, Finetune) for step in steps) else name
        if not _NAME.fullmatch(name):
            raise UserError(f"{where}: a variant is named by letters, digits, dots and dashes, got {name!r}")
        return cls(name, steps, max_drop)

    def within(self, max_drop: float | None) -> Plan:
        """Return the plan with a budget, if it states none itself."""
        return self if max_drop is None or self.max_drop is not None else replace(self, max_drop=max_drop)

    def to_plain(self) -> Any:
        """Return the plan as a variant in YAML: the list of its steps; with a budget a mapping that holds the list."""
        return self.to_specs() if self.max_drop is None else {"max_drop": self.max_drop, "steps": self.to_specs()}

    def to_specs(self) -> list[dict[str, Any]]:
        """The steps as plain data, from which :meth:`of` makes the same plan."""
        return [step.to_spec() for step in self.steps]


def read_plans(values: Any, where: str = "plan", name: str | None = None) -> list[Plan]:
    """The plans that a YAML holds.

    Args:
        values: a list of steps; or a mapping with ``steps``, and ``name`` on request; or one with ``variants``, a
            mapping of names to lists of steps, or to mappings with ``steps``. Each mapping may state ``max_drop``, the
            points of accuracy that a whole plan may cost.
        where: the place, for messages.
        name: what the variant is called where the YAML names none.

    Raises:
        UserError: it is none of these, or a plan is refused.

    >>> [plan.name for plan in read_plans({"variants": {"small": ["prune", "finetune"], "int8": ["quantize"]}})]
    ['small', 'int8']
    """
    if not isinstance(values, Mapping):
        return [Plan.of(values, name, where)]
    _check_keys(values, _KEYS, where)
    max_drop = values.get("max_drop")
    if "steps" in values and "variants" not in values:
        given = values.get("name", name)
        if given is not None and not isinstance(given, str):
            raise UserError(f"{where}.name: expected a name, got {given!r}")
        return [Plan.of(values["steps"], given, f"{where}.steps", max_drop)]
    variants = values.get("variants")
    if "steps" in values or "name" in values or not isinstance(variants, Mapping) or not variants:
        raise UserError(f"{where}: expected `steps`, a list, or `variants`, a mapping of names to lists of steps")
    return [_variant(str(key), steps, f"{where}.variants.{key}", max_drop) for key, steps in variants.items()]


def _variant(name: str, values: Any, where: str, max_drop: Any) -> Plan:
    if not isinstance(values, Mapping):
        return Plan.of(values, name, where, max_drop)
    _check_keys(values, ("steps", "max_drop"), where)
    return Plan.of(values.get("steps", []), name, f"{where}.steps", values.get("max_drop", max_drop))


def _check_keys(values: Mapping[str, Any], accepted: Sequence[str], where: str) -> None:
    for key in values:
        if key not in accepted:
            words = ", ".join(each for each in accepted if each != "name")
            raise UserError(f'{where}: there is no key "{key}".{suggestion(str(key), accepted)} Accepted: {words}.')


def check_budget(max_drop: Any, where: str) -> None:
    """Raise :class:`UserError` if ``max_drop`` is neither ``None`` nor points of accuracy from 0 to 100."""
    number = isinstance(max_drop, int | float) and not isinstance(max_drop, bool)
    if max_drop is not None and not (number and 0 <= max_drop <= 100):
        raise UserError(f"{where}: max_drop: expected points of accuracy, 0 to 100, got {max_drop!r}")


def check_order(steps: Sequence[CompressionStep], where: str = "plan") -> None:
    """Refuse steps whose order makes no sense, with the reason.

    Fine-tuning with nothing before it is accepted: it is the control of what the other steps do.

    Raises:
        UserError: which step cannot stand where it does, and why.
    """
    if not steps:
        raise UserError(f"{where}: a plan needs a step. Accepted: {', '.join(STEPS.names())}.")
    for i, step in enumerate(steps):
        for j in range(i):
            reason = clash(steps[j], step)
            if reason is not None:
                place = f"{where}[{i}]"
                raise UserError(f"{place}: {step.name} cannot come after {steps[j].name} ({where}[{j}]): {reason}")
        untrained = not any(each.trains for each in steps[i:])
        if isinstance(step, Mask) and untrained and step.criterion not in ("magnitude", "random"):
            raise UserError(
                f"{where}[{i}]: the criterion {step.criterion} looks at gradients, and nothing trains after it; add "
                "finetune, or mask by magnitude"
            )


def clash(before: CompressionStep, step: CompressionStep) -> str | None:
    """Why ``step`` cannot come anywhere after ``before``; ``None`` where it can."""
    if isinstance(before, Quantize):
        return _after_quantize(before, step)
    if isinstance(before, Qat):
        return _after_qat(step)
    if isinstance(before, Mask):
        return _after_mask(before, step)
    smaller = isinstance(step, Prune | DropResidualBlocks) and isinstance(before, Prune | DropResidualBlocks)
    if smaller:
        return _not_smaller(before, step)
    return None


def _after_quantize(before: Quantize, step: CompressionStep) -> str | None:
    if not isinstance(step, Quantize):
        return "what is exported is neither trained nor pruned any more; quantize comes last."
    if (before.to, before.runtime) == (step.to, step.runtime):
        return f"there is one {step.to} export for {step.runtime}, and it stands already."
    return None


def _after_qat(step: CompressionStep) -> str | None:
    if isinstance(step, Prune | DropResidualBlocks):
        return "the scales of int8 were learnt for the layers as they are; prune first."
    if isinstance(step, Mask):
        return "the weights were trained for int8 as they are; mask first, the zeros stay while qat trains."
    if step.trains:
        return "its weights would no longer be those that int8 was learnt for; give qat more epochs."
    if isinstance(step, Quantize) and (step.to, step.runtime) != ("int8", "onnxruntime"):
        return "it trains for int8 in ONNX Runtime, and for no other precision or runtime."
    return None


def _after_mask(before: Mask, step: CompressionStep) -> str | None:
    if isinstance(step, Prune | DropResidualBlocks):
        return "the masks are of the layers as they are, and would be lost; prune first."
    if isinstance(step, Mask) and not (before.pattern or step.pattern) and step.sparsity <= before.sparsity:
        return f"{100 * before.sparsity:g} % of the weights are zero already."
    return None


def _not_smaller(before: Any, step: Any) -> str | None:
    measure, share = parse_target(step.target)
    left = before.target.get(measure)
    if left is not None and share >= left:
        return f"{left:g} of the {words(measure)} is left then; targets are shares of the run's own network."
    return None
