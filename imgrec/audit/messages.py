"""Texts about an audit that its page, its lists and the terminal share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imgrec.data.wrappers.corrections import EXCLUDE, RELABEL

DECIDE = "decide"
"""Action of a finding that a person must decide: ``--fix`` does not change the image."""

RULES: dict[str, str] = {
    EXCLUDE: "an image that cannot be read; an image with the pixels and the label of one that stays, in the same "
    "split or in a higher one (test before validation before training); and a near duplicate with the "
    "label of an image of a higher split, unless only features show it or the images of the set are much alike. A "
    "readable test image always stays.",
    DECIDE: "copies with different labels, of which none can be trusted; and suspected label errors of validation and "
    "test images. --fix neither excludes nor relabels them.",
    RELABEL.rstrip(":"): "a training image with a suspected label error. --fix contains it only with --relabel. "
    "Validation and test images are never relabelled.",
}
"""The meaning of each action, the same on the page, in the lists and on the terminal."""

MODES: dict[str, tuple[str, str]] = {
    "pixels": (
        "equal pixels; and copies that were resized, compressed again, or made a little brighter or darker",
        "rotated, mirrored and cropped copies, and copies with other colours",
    ),
    "turned": (
        "copies rotated by 90, 180 or 270 degrees or mirrored, also if they were resized or compressed again",
        "copies rotated by other angles, and cropped copies",
    ),
    "embeddings": (
        "copies that were cropped, mirrored, slightly rotated or recoloured, as far as the backbone sees them as alike",
        "copies that are less alike to the backbone than unrelated images of the set; each pair needs a look",
    ),
}
"""The kinds of duplicates that each search can find, and those that it cannot."""

OPTIONS = {"pixels": "always", "turned": "--turned", "embeddings": "--embeddings"}
"""The option of each search."""


def rule_of(action: str) -> str:
    """Return the meaning of an action; an empty text for no action.

    >>> rule_of("relabel: cat")[:16]
    'a training image'
    """
    return RULES.get(action.partition(":")[0], "")


@dataclass(frozen=True)
class Judge:
    """A network whose predictions judged labels.

    Args:
        name: the run folder or the file of its predictions.
        counts: number of images by split that it judged.
    """

    name: str
    counts: Mapping[str, int]


def judged_text(judges: Sequence[Judge], totals: Mapping[str, int], judged: Mapping[str, int]) -> list[str]:
    """Return the sentences that state which images were judged by which network.

    Args:
        judges: the networks; none if no predictions were given.
        totals: number of images by split.
        judged: number of images by split that one network or several judged.
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
                f"{missing:,} of {total:,} training images were not judged by a network that did not train on them. "
                "The predictions of all folds of a cross-validation would judge them."
            )
        elif missing:
            lines.append(f"{missing:,} of {total:,} {split} images were not judged.")
    return lines


def own_normalization(config: Mapping[str, Any]) -> str | None:
    """Return why a config needs no other normalization constants; ``None`` if they are useful.

    Args:
        config: a config, with ``model`` or without.
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
