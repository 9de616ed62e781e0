"""Accuracy budget of a compression plan: comparison of the total accuracy drop with ``max_drop``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imgrec.errors import BudgetExceededError, UserError
from imgrec.export.export_folder import mark_budget
from imgrec.export.model_folder.model_card import mark_card
from imgrec.export.model_folder.save import CARD
from imgrec.reports.compression_section import BUDGET, KEY, budget_sentence
from imgrec.runs.exports import measured_export
from imgrec.runs.folder import RunFolder
from imgrec.runs.summary import update_summary
from imgrec.utils.paths import write_text

SPLITS = ("val", "test")
"""Splits on which a budget is evaluated, in the order of preference."""


def check_parent(parent: RunFolder) -> None:
    """Check that a run has predictions to which a variant can be compared.

    Raises:
        UserError: If it has none.
    """
    if not any(parent.has_predictions(split) for split in SPLITS):
        raise UserError(
            f"max_drop: expected predictions in the run {parent.path}, got none. "
            f"`imgrec validate {parent.path}` writes them."
        )


def evaluate_budget(variant: RunFolder, max_drop: float) -> dict[str, Any]:
    """Compare the accuracy drop of a finished variant with its budget, and write the result into its folder.

    The drop is the accuracy of the parent run minus the accuracy of the result of the plan, on the same images. It
    includes all steps. The result is stored in summary.json, in export.json and in the model card. No file is removed
    if the budget is exceeded.

    Args:
        variant: Run folder with the key ``compression`` in its summary.
        max_drop: Points of accuracy, in [0, 100].

    Returns:
        ``max_drop``, ``split``, ``images``, ``drop`` with its 95 % interval ``low`` to ``high`` in points, ``holds``.

    Raises:
        UserError: If the variant and its parent have no predictions on the same images.
    """
    found = variant.summary[KEY]
    split = next((name for name in SPLITS if name in found["splits"]), None)
    if split is None:
        raise UserError(
            f"max_drop: expected predictions of {variant.path} and its parent on the same images, got none."
        )
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
    update_summary(variant, {KEY: {**found, BUDGET: budget}})  # last, so that an interrupted evaluation is repeated
    return budget


def raise_if_exceeded(variants: Sequence[RunFolder]) -> None:
    """Raise an error that lists the variants whose accuracy drop exceeds their budget, if there are any.

    Raises:
        BudgetExceededError: If at least one variant exceeds its budget.
    """
    over = [(run, budget) for run in variants if (budget := run.summary[KEY].get(BUDGET)) and not budget["holds"]]
    if over:
        drops = " ".join(f"{run.summary[KEY]['variant']}: {budget_sentence(budget)}" for run, budget in over)
        raise BudgetExceededError(f"{drops} Its files are kept in {', '.join(str(run.path) for run, _ in over)}")
