"""From a plan to what is carried out one after the other, each leaving a folder that the next one starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from imgrec.compress.plan import Plan
from imgrec.compress.steps import CompressionStep, Mask, Quantize, Training

OWN = "."
"""The place of the last network of a plan: the variant's own run folder."""


@dataclass(frozen=True)
class Stage:
    """One thing to do.

    Attributes:
        step: what is done.
        place: where its network stands, below the variant's run folder.
        mask: the zeros to reach and hold while it trains.
        held: whether they are there already.
    """

    step: CompressionStep
    place: str
    mask: Mask | None = None
    held: bool = False

    @property
    def said(self) -> str:
        """What it does, in a line."""
        if self.mask is None:
            return self.step.description
        return f"{self.step.description}, {'with its zeros held' if self.held else self.mask.description}"

    def folder(self, variant: Path) -> Path:
        """Where its network stands: a run folder where it trains, else a model folder."""
        return variant if self.place == OWN else variant / self.place


def stages_of(plan: Plan) -> list[Stage]:
    """The stages of a plan, in order: each leaves a network, but those at the end that quantize, which leave exports.

    A mask is carried out by the training that comes after it, and held by all later ones. The last network stands in
    the variant's own folder, the others under ``stages/``.

    >>> plan = Plan.of(["mask", "finetune", "qat", "quantize"])
    >>> [(stage.step.name, stage.place, stage.held) for stage in stages_of(plan)]
    [('finetune', 'stages/2-finetune', False), ('qat', '.', True), ('quantize', '.', False)]
    """
    found: list[Stage] = []
    mask, held = None, False
    for number, step in enumerate(plan.steps, 1):
        place = f"stages/{number}-{step.name}"
        if isinstance(step, Quantize):
            found.append(Stage(step, OWN))
        elif isinstance(step, Mask) and any(isinstance(later, Training) for later in plan.steps[number:]):
            mask, held = step, False
        elif isinstance(step, Training):
            found.append(Stage(step, place, mask, held))
            held = mask is not None
        else:
            found.append(Stage(step, place))
    networks = [i for i, stage in enumerate(found) if not isinstance(stage.step, Quantize)]
    if networks:
        found[networks[-1]] = replace(found[networks[-1]], place=OWN)
    return found
