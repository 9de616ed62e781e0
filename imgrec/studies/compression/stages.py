"""Stages of a compression plan. Each writes a folder from which the next one starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from imgrec.compress.plan import Plan
from imgrec.compress.steps import CompressionStep, Mask, Quantize, Training

OWN = "."
"""Place of the last model of a plan: the run folder of the variant."""


@dataclass(frozen=True)
class Stage:
    """One stage of a plan.

    Args:
        step: Compression step.
        place: Location of its model, relative to the run folder of the variant.
        mask: Sparsity to reach and keep during training. Defaults to none.
        is_masked: True if the initial weights have this sparsity. Defaults to False.
    """

    step: CompressionStep
    place: str
    mask: Mask | None = None
    is_masked: bool = False

    @property
    def description(self) -> str:
        """Description of the stage in one line."""
        if self.mask is None:
            return self.step.description
        return f"{self.step.description}, {'with its zeros kept' if self.is_masked else self.mask.description}"

    def folder(self, variant: Path) -> Path:
        """Return the folder of its model: a run folder after training, otherwise a model folder."""
        return variant if self.place == OWN else variant / self.place


def plan_stages(plan: Plan) -> list[Stage]:
    """Return the stages of a plan, in order. Each writes a model, except quantization, which writes an export.

    The training after a mask applies it, and all later trainings keep it. The last model is in the folder of the
    variant, the others are under ``stages/``.

    Example:
        >>> plan = Plan.from_specs(["mask", "finetune", "qat", "quantize"])
        >>> [(stage.step.name, stage.place, stage.is_masked) for stage in plan_stages(plan)]
        [('finetune', 'stages/2-finetune', False), ('qat', '.', True), ('quantize', '.', False)]
    """
    found: list[Stage] = []
    mask, is_masked = None, False
    for number, step in enumerate(plan.steps, 1):
        place = f"stages/{number}-{step.name}"
        if isinstance(step, Quantize):
            found.append(Stage(step, OWN))
        elif isinstance(step, Mask) and any(isinstance(later, Training) for later in plan.steps[number:]):
            mask, is_masked = step, False
        elif isinstance(step, Training):
            found.append(Stage(step, place, mask, is_masked))
            is_masked = mask is not None
        else:
            found.append(Stage(step, place))
    networks = [i for i, stage in enumerate(found) if not isinstance(stage.step, Quantize)]
    if networks:
        found[networks[-1]] = replace(found[networks[-1]], place=OWN)
    return found
