"""What a compressed variant lost and gained against the run that it was made from."""

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
    here: Mapping[str, int],
    before: Mapping[str, int],
    product: Path | None,
) -> dict[str, Any]:
    """Sizes before and after, and for each split the accuracies of both with the interval of their difference.

    Args:
        variant: with its predictions.
        parent: the run that it was made from.
        here: what the variant's network costs, by name.
        before: what the parent's does.
        product: the export that the variant's predictions are of; ``None`` where they are of its network.
    """
    file = product if product is not None else variant.model_folder / WEIGHTS
    sizes = {name: {"before": before[name], "after": here[name]} for name in here}
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
