"""Comparison of a compressed variant with its parent run: sizes and accuracies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgrec.compare.align import align_predictions
from imgrec.compress.profiling import bytes_on_disk
from imgrec.export.model_folder.save import WEIGHTS
from imgrec.runs.folder import RunFolder
from imgrec.stats.paired import discordant, paired_bootstrap

_LEVEL = 0.95


def difference_to_parent(
    variant: RunFolder,
    parent: RunFolder,
    costs: Mapping[str, int],
    parent_costs: Mapping[str, int],
    product: Path | None,
) -> dict[str, Any]:
    """Return the sizes before and after, and for each split both accuracies with the interval of their difference.

    Args:
        variant: Run folder of the variant, with its predictions.
        parent: Run folder that the variant was made from.
        costs: Costs of the model of the variant, by name.
        parent_costs: Costs of the model of the parent, by name.
        product: Export whose predictions the variant has, or ``None`` if they are those of its model.
    """
    file = product if product is not None else variant.model_folder / WEIGHTS
    sizes = {name: {"before": parent_costs[name], "after": costs[name]} for name in costs}
    dense = parent.model_folder / WEIGHTS
    if dense.is_file():
        sizes["bytes"] = {"before": bytes_on_disk(dense), "after": bytes_on_disk(file)}
    splits = {split: found for split in ("test", "val") if (found := _paired(variant, parent, split)) is not None}
    return {"sizes": sizes, "splits": splits}


def _paired(variant: RunFolder, parent: RunFolder, split: str) -> dict[str, Any] | None:
    if not (variant.has_predictions(split) and parent.has_predictions(split)):
        return None
    images, (ours, theirs) = align_predictions([variant, parent], split, shared=True)
    low, high = paired_bootstrap(ours.correct, theirs.correct, level=_LEVEL)
    won, lost = discordant(ours.correct, theirs.correct)
    return {
        "images": len(images),
        "before": theirs.accuracy,
        "after": ours.accuracy,
        "difference": ours.accuracy - theirs.accuracy,
        "low": low,
        "high": high,
        "won": won,
        "lost": lost,
        "agreement": float((ours.predicted == theirs.predicted).mean()),
    }
