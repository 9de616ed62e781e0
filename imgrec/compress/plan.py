"""Compression plans: named lists of steps in a valid order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from imgrec.compress.pruning.targets import format_cost, parse_target
from imgrec.compress.steps import STEPS, CompressionStep, DropResidualBlocks, Finetune, Mask, Prune, Qat, Quantize
from imgrec.errors import UserError, suggestion
from imgrec.registry import Spec

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEYS = ("name", "steps", "variants", "max_drop")


@dataclass(frozen=True)
class Plan:
    """Steps that create one variant of a trained network, with an accuracy budget for all steps together.

    Args:
        name: Name of the variant.
        steps: Steps in order.
        max_drop: Largest loss of accuracy against the original run after all steps, in points, 0 to 100. Defaults to
            no limit.

    Example:
        >>> specs = [{"name": "prune", "target": {"macs": 0.5}}, {"name": "finetune", "epochs": 2}, "quantize"]
        >>> Plan.from_specs(specs).name
        'macs0.5-finetune2-int8'
    """

    name: str
    steps: tuple[CompressionStep, ...]
    max_drop: float | None = None

    @classmethod
    def from_specs(
        cls, specs: Sequence[Spec], name: str | None = None, where: str = "plan", max_drop: float | None = None
    ) -> Plan:
        """Build a plan from specs of :data:`imgrec.compress.steps.STEPS`.

        Args:
            specs: Specs of the steps, in order.
            name: Name of the variant. Defaults to the labels of its steps.
            where: Key or option, for messages.
            max_drop: Largest loss of accuracy of the whole plan in points, 0 to 100. Defaults to no limit.

        Raises:
            UserError: If a step or an argument is invalid, the order is invalid, or the budget is out of range.
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
            raise UserError(f"{where}: expected a name of letters, digits, dots and dashes, got {name!r}")
        return cls(name, steps, max_drop)

    def with_budget(self, max_drop: float | None) -> Plan:
        """Return the plan with a budget, or the plan itself if it has a budget."""
        return self if max_drop is None or self.max_drop is not None else replace(self, max_drop=max_drop)

    def to_plain(self) -> Any:
        """Return the plan as a variant in YAML: a list of steps, or a mapping with ``steps`` if it has a budget."""
        return self.to_specs() if self.max_drop is None else {"max_drop": self.max_drop, "steps": self.to_specs()}

    def to_specs(self) -> list[dict[str, Any]]:
        """Return the specs of the steps. Inverse of :meth:`from_specs`."""
        return [step.to_spec() for step in self.steps]


def read_plans(values: Any, where: str = "plan", name: str | None = None) -> list[Plan]:
    """Build the plans of a YAML file.

    Args:
        values: List of steps, mapping with ``steps`` and optionally ``name``, or mapping with ``variants``. The value
            of ``variants`` maps names to lists of steps or to mappings with ``steps``. Each mapping may contain
            ``max_drop``, the largest loss of accuracy of a whole plan in points.
        where: Key or option, for messages.
        name: Name of the variant if the YAML contains none. Defaults to the labels of its steps.

    Raises:
        UserError: If the YAML has another form, or a plan is invalid.

    Example:
        >>> [plan.name for plan in read_plans({"variants": {"small": ["prune", "finetune"], "int8": ["quantize"]}})]
        ['small', 'int8']
    """
    if not isinstance(values, Mapping):
        return [Plan.from_specs(values, name, where)]
    _check_keys(values, _KEYS, where)
    max_drop = values.get("max_drop")
    if "steps" in values and "variants" not in values:
        given = values.get("name", name)
        if given is not None and not isinstance(given, str):
            raise UserError(f"{where}.name: expected a name, got {given!r}")
        return [Plan.from_specs(values["steps"], given, f"{where}.steps", max_drop)]
    variants = values.get("variants")
    if "steps" in values or "name" in values or not isinstance(variants, Mapping) or not variants:
        raise UserError(f"{where}: expected `steps`, a list, or `variants`, a mapping of names to lists of steps")
    return [_variant(str(key), steps, f"{where}.variants.{key}", max_drop) for key, steps in variants.items()]


def _variant(name: str, values: Any, where: str, max_drop: Any) -> Plan:
    if not isinstance(values, Mapping):
        return Plan.from_specs(values, name, where, max_drop)
    _check_keys(values, ("steps", "max_drop"), where)
    return Plan.from_specs(values.get("steps", []), name, f"{where}.steps", values.get("max_drop", max_drop))


def _check_keys(values: Mapping[str, Any], accepted: Sequence[str], where: str) -> None:
    for key in values:
        if key not in accepted:
            words = ", ".join(each for each in accepted if each != "name")
            raise UserError(f'{where}: there is no key "{key}".{suggestion(str(key), accepted)} Accepted: {words}.')


def check_budget(max_drop: Any, where: str) -> None:
    """Raise if ``max_drop`` is neither ``None`` nor points of accuracy from 0 to 100.

    Raises:
        UserError: If it is not.
    """
    is_number = isinstance(max_drop, int | float) and not isinstance(max_drop, bool)
    if max_drop is not None and not (is_number and 0 <= max_drop <= 100):
        raise UserError(f"{where}: max_drop: expected points of accuracy, 0 to 100, got {max_drop!r}")


def check_order(steps: Sequence[CompressionStep], where: str = "plan") -> None:
    """Raise if the order of steps is invalid.

    Fine-tuning without an earlier step is valid. It is the control experiment for the other steps.

    Raises:
        UserError: If a step cannot follow an earlier one. The message contains the reason.
    """
    if not steps:
        raise UserError(f"{where}: expected at least one step. Accepted: {', '.join(STEPS.names())}.")
    for i, step in enumerate(steps):
        for j in range(i):
            reason = find_conflict(steps[j], step)
            if reason is not None:
                place = f"{where}[{i}]"
                raise UserError(f"{place}: {step.name} cannot come after {steps[j].name} ({where}[{j}]): {reason}")
        is_untrained = not any(each.trains for each in steps[i:])
        if isinstance(step, Mask) and is_untrained and step.criterion not in ("magnitude", "random"):
            raise UserError(
                f"{where}[{i}]: the criterion {step.criterion} requires gradients, but no later step trains. Add "
                "finetune, or mask by magnitude."
            )


def find_conflict(before: CompressionStep, step: CompressionStep) -> str | None:
    """Return the reason why ``step`` cannot follow ``before``, or ``None`` if it can."""
    if isinstance(before, Quantize):
        return _after_quantize(before, step)
    if isinstance(before, Qat):
        return _after_qat(step)
    if isinstance(before, Mask):
        return _after_mask(before, step)
    if isinstance(step, Prune | DropResidualBlocks) and isinstance(before, Prune | DropResidualBlocks):
        return _after_pruning(before, step)
    return None


def _after_quantize(before: Quantize, step: CompressionStep) -> str | None:
    if not isinstance(step, Quantize):
        return "an exported network can be neither trained nor pruned. Put quantize last."
    if (before.to, before.runtime) == (step.to, step.runtime):
        return f"the plan already exports {step.to} for {step.runtime}."
    return None


def _after_qat(step: CompressionStep) -> str | None:
    if isinstance(step, Prune | DropResidualBlocks):
        return "the int8 scales were learned for the unpruned layers. Put prune before qat."
    if isinstance(step, Mask):
        return "the weights were trained for int8 without masks. Put mask before qat, which keeps the zeros."
    if step.trains:
        return "further training would invalidate the int8 scales. Give qat more epochs."
    if isinstance(step, Quantize) and (step.to, step.runtime) != ("int8", "onnxruntime"):
        return "qat trains for int8 in ONNX Runtime only."
    return None


def _after_mask(before: Mask, step: CompressionStep) -> str | None:
    if isinstance(step, Prune | DropResidualBlocks):
        return "the masks of the unpruned layers would be lost. Put prune before mask."
    if isinstance(step, Mask) and not (before.pattern or step.pattern) and step.sparsity <= before.sparsity:
        return f"{100 * before.sparsity:g} % of the weights are already zero."
    return None


def _after_pruning(before: Any, step: Any) -> str | None:
    measure, share = parse_target(step.target)
    left = before.target.get(measure)
    if left is not None and share >= left:
        return f"{left:g} of the {format_cost(measure)} remain after it. Targets are shares of the network of the run."
    return None
