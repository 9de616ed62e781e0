"""Texts that the page, the lists and the terminal output of an audit share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgrec.data.wrappers.corrections import EXCLUDE, RELABEL

DECIDE = "decide"
"""Action of a finding that a person must decide: ``--fix`` does not change the image."""

RULES: dict[str, str] = {
    EXCLUDE: "an image that cannot be read, a redundant duplicate, or a near duplicate in a lower split with the same "
    "label. Test is the highest split, then validation, then training. The duplicate in the highest split is kept. A "
    "near duplicate is not excluded if only features show it or if most images of the set are similar. A readable "
    "test image is never excluded.",
    DECIDE: "copies with different labels, and suspected label errors of validation and test images. --fix neither "
    "excludes nor relabels them.",
    RELABEL.rstrip(":"): "a training image with a suspected label error. --fix contains it only with --relabel. "
    "Validation and test images are never relabelled.",
}
"""Definition of each action, the same on the page, in the lists and in the terminal output."""

MODES: dict[str, tuple[str, str]] = {
    "pixels": (
        "equal pixels, and copies that were resized, compressed again, or made slightly brighter or darker",
        "rotated, mirrored and cropped copies, and copies with other colours",
    ),
    "turned": (
        "copies rotated by 90, 180 or 270 degrees or mirrored, also if they were resized or compressed again",
        "copies rotated by other angles, and cropped copies",
    ),
    "embeddings": (
        "copies that were cropped, mirrored, slightly rotated or recoloured, if their features are similar",
        "copies whose features differ more than those of unrelated images. Check each reported pair",
    ),
}
"""Kinds of duplicates that each search finds, and those that it does not find."""

OPTIONS = {"pixels": "always", "turned": "--turned", "embeddings": "--embeddings"}
"""Command-line option of each search."""


def describe_action(action: str) -> str:
    """Return the definition of an action, or an empty text for no action.

    >>> describe_action("relabel: cat")[:16]
    'a training image'
    """
    return RULES.get(action.partition(":")[0], "")


@dataclass(frozen=True)
class JudgingModel:
    """A model whose predictions judged labels.

    Args:
        name: Run folder or file of its predictions.
        counts: Number of judged images by split.
    """

    name: str
    counts: Mapping[str, int]


def describe_judged(judges: Sequence[JudgingModel], totals: Mapping[str, int], judged: Mapping[str, int]) -> list[str]:
    """Return sentences that state which images were judged by which model.

    Args:
        judges: Models with their counts, empty without predictions.
        totals: Number of images by split.
        judged: Number of images by split that at least one model judged.
    """
    if not judges:
        return ["No label was judged: no predictions were given (--predictions)."]
    lines = [
        f"{judge.name} judged " + (", ".join(f"{n:,} {split}" for split, n in judge.counts.items() if n) or "no") + "."
        for judge in judges
    ]
    for split, total in totals.items():
        missing = total - judged.get(split, 0)
        if missing and split == "train":
            lines.append(
                f"{missing:,} of {total:,} training images were not judged by a model that was not trained on them. "
                "The predictions of all folds of a cross-validation would judge them."
            )
        elif missing:
            lines.append(f"{missing:,} of {total:,} {split} images were not judged.")
    return lines


def own_normalization(config: Mapping[str, Any]) -> str | None:
    """Return the reason for which a config requires no normalization constants, or ``None`` if it requires them.

    Args:
        config: Config, with or without ``model``.
    """
    model = config.get("model")
    given = model.get("init_args", model) if isinstance(model, Mapping) else {}
    normalize, backbone = given.get("normalize", "auto"), given.get("backbone")
    if normalize != "auto":
        return f"the config sets model.normalize to {normalize}"
    if isinstance(backbone, Mapping) and (backbone.get("pretrained") or backbone.get("weights")):
        return f"the weights of {backbone.get('name')} include their own mean and standard deviation"
    if given.get("init_from"):
        return "the weights of model.init_from include their own mean and standard deviation"
    return None
