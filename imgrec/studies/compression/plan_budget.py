"""The accuracy that a whole plan of compression cost, held against the accuracy that it may cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgrec.errors import BudgetExceededError, UserError
from imgrec.export.export_folder import mark_budget
from imgrec.export.model_folder.model_card import mark_card
from imgrec.export.model_folder.save import CARD
from imgrec.reports.compression_section import BUDGET, KEY, budget_sentence
from imgrec.runs.folder import RunFolder
from imgrec.runs.product import measured_export
from imgrec.runs.summary import update_summary
from imgrec.utils.paths import write_text

SPLITS = ("val", "test")
"""The split on which a budget is judged: the validation images, otherwise those of the test."""


def check_parent(parent: RunFolder) -> None:
    """Raise if no budget can be judged against a run.

    Raises:
        UserError: If the run holds no predictions to compare with.
    """
    if not any(parent.has_predictions(split) for split in SPLITS):
        raise UserError(
            f"max_drop: expected predictions of the run {parent.path} to compare with, and it holds none. "
            f"imgrec validate {parent.path} writes them."
        )


def judge_budget(variant: RunFolder, max_drop: float) -> dict[str, Any]:
    """Compare what a finished variant lost with what it may lose, and write the result into its folder.

    The loss is that of all steps together: the accuracy of the run that the variant was made from, minus that of what
    the plan ends in, both on the same images. summary.json, the export.json of its export and the model card state the
    result. Nothing is removed if the budget is exceeded.

    Args:
        variant: a run folder with the key ``compression`` in its summary.
        max_drop: points of accuracy, 0 to 100.

    Returns:
        ``max_drop``, ``split``, ``images``, ``drop`` with its 95 % interval ``low`` to ``high`` in points, ``holds``.

    Raises:
        UserError: If the variant and its parent have no predictions on the same images.
    """
    found = variant.summary[KEY]
    split = next((name for name in SPLITS if name in found["splits"]), None)
    if split is None:
        raise UserError(f"max_drop: {variant.path} and its parent hold no predictions on the same images")
    pair = found["splits"][split]
    drop = -100 * pair["difference"]
    budget = {
        "max_drop": max_drop,
        "split": split,
        "images": pair["images"],
        "drop": round(drop, 4),
        "low": round(-100 * pair["high"], 4),
        "high": round(-100 * pair["low"], 4),
        "holds": drop <= max_drop + 1e-9,
    }
    if found.get(BUDGET) == budget:
        return budget
    export = measured_export(variant)
    if export is not None:
        mark_budget(export, budget)
    card = variant.model_folder / CARD
    if card.is_file():
        write_text(card, mark_card(card.read_text(encoding="utf-8"), budget_sentence(budget)))
    update_summary(variant, {KEY: {**found, BUDGET: budget}})  # the last, so that a killed command judges again
    return budget


def raise_if_exceeded(variants: Sequence[RunFolder]) -> None:
    """Raise if variants lost more than their budgets allow.

    Raises:
        BudgetExceededError: If at least one did; the message states the loss of each.
    """
    over = [(run, budget) for run in variants if (budget := run.summary[KEY].get(BUDGET)) and not budget["holds"]]
    if over:
        said = "; ".join(f"{run.summary[KEY]['variant']}: {budget_sentence(budget)}" for run, budget in over)
        raise BudgetExceededError(f"{said} Its files are kept in {', '.join(str(run.path) for run, _ in over)}")
