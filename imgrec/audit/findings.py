"""Kinds of findings, one finding, the inventory of audited images, and the CSV list of findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgrec.audit.messages import describe_action
from imgrec.data import Source, Splits
from imgrec.data.wrappers.corrections import EXCLUDE, RELABEL
from imgrec.utils.csv_files import rows_written

COLUMNS = ("id", "split", "class", "finding", "detail", "related", "action", "reason")
"""Columns of a list of findings. :mod:`imgrec.data.wrappers.corrections` reads this list."""

KINDS: dict[str, str] = {
    "duplicate_across_splits": "the same pixels in two splits: an image of the evaluation was also trained on",
    "duplicate_across_classes": "the same pixels with two labels",
    "near_duplicate_across_splits": "nearly the same image in two splits, for example resized or compressed again",
    "near_duplicate_across_classes": "nearly the same image with two labels",
    "label_error": "a model that was not trained on the image predicts another class with high confidence",
    "missing": "the file does not exist",
    "empty": "the file has no content",
    "truncated": "the end of the file is missing",
    "unreadable": "the file cannot be decoded",
    "damaged": "the file can be decoded, but its decoder reports an error in it",
    "misnamed": "the format of the content differs from the file suffix",
    "too_small": "far fewer pixels than the other images",
    "odd_aspect": "a far larger aspect ratio than the other images",
    "blank": "almost a single colour",
    "dark": "almost all pixels are dark",
    "bright": "almost all pixels are bright",
    "blurred": "far less detail than the other images",
    "grey": "an image without colour in a data set of colour images",
    "duplicate": "the same pixels as another image of the same split and class",
    "near_duplicate": "nearly the same image as another one of the same split and class",
}
"""Description of every kind of finding, the most severe first."""

UNREADABLE = ("missing", "empty", "truncated", "unreadable")
"""Kinds of findings of images that cannot be decoded."""

_ORDER = {kind: number for number, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Finding:
    """One defect of one image.

    Args:
        position: Index of the image in the :class:`Inventory`.
        kind: Kind of the finding, a key of :data:`KINDS`.
        detail: Description.
        related: Index of the other image of a duplicate. Defaults to None.
        action: Proposed action: ``exclude``, ``decide``, ``relabel: <class>``, or an empty text. Defaults to "".
        weight: Severity, which orders the findings of one kind. Defaults to 0.
    """

    position: int
    kind: str
    detail: str
    related: int | None = None
    action: str = ""
    weight: float = 0.0


@dataclass(frozen=True)
class Inventory:
    """The audited images. The position of an image is its index here, from 0.

    Args:
        source: Source of the images.
        rows: Row of each image in the source.
        splits: Split of each image.
    """

    source: Source
    rows: NDArray[np.int64]
    splits: Sequence[str]

    @classmethod
    def from_splits(cls, source: Source, splits: Splits) -> Inventory:
        """Return the inventory of all images of three splits."""
        parts = {"train": splits.train, "val": splits.val, "test": splits.test}
        words = [word for word, rows in parts.items() for _ in range(len(rows))]
        return cls(source, np.concatenate(list(parts.values())), words)

    def __len__(self) -> int:
        return len(self.rows)

    def id(self, position: int) -> str:
        """Return the id of an image."""
        return self.source.ids[int(self.rows[position])]

    def class_name(self, position: int) -> str:
        """Return the class name of an image. The names of several classes are joined with " + "."""
        target = self.source.targets[int(self.rows[position])]
        if not self.source.multi_label:
            return self.source.class_names[int(target)]
        return " + ".join(self.source.class_names[i] for i in np.flatnonzero(target > 0.5))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Number of the label of each image, equal for equal labels."""
        targets = self.source.targets[self.rows]
        if not self.source.multi_label:
            return np.asarray(targets, dtype=np.int64)
        return np.asarray(np.unique(targets, axis=0, return_inverse=True)[1].ravel(), dtype=np.int64)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """Rank of each image: 0 for test, 1 for validation, 2 for training. The duplicate with the lowest is kept."""
        ranks = {"test": 0, "val": 1, "train": 2}
        return np.asarray([ranks[split] for split in self.splits], dtype=np.int64)


def sort_findings(findings: Iterable[Finding], inventory: Inventory) -> list[Finding]:
    """Sort findings by severity of the kind, then by weight, descending, then by id."""
    return sorted(findings, key=lambda f: (_ORDER[f.kind], -f.weight, inventory.id(f.position)))


def write_findings(path: str | Path, findings: Iterable[Finding], inventory: Inventory) -> None:
    """Write a CSV file with one row per finding, through a temporary file."""
    with rows_written(path) as write:
        write(COLUMNS)
        for found in findings:
            related = "" if found.related is None else inventory.id(found.related)
            split, class_name = inventory.splits[found.position], inventory.class_name(found.position)
            proposal = found.detail, related, found.action, describe_action(found.action)
            write([inventory.id(found.position), split, class_name, found.kind, *proposal])


def proposals(findings: Iterable[Finding], relabel: bool = False) -> list[Finding]:
    """Return the findings that ``--fix`` applies, at most one for each image.

    The rules are those of :data:`imgrec.audit.messages.RULES`. An excluded image is not relabelled.

    Args:
        findings: All findings.
        relabel: True to return new labels of training images too. Defaults to False.
    """
    selected: dict[int, Finding] = {}
    for found in sorted(findings, key=lambda f: (f.action != EXCLUDE, _ORDER[f.kind])):
        if found.action == EXCLUDE or (relabel and found.action.startswith(RELABEL)):
            selected.setdefault(found.position, found)
    return sorted(selected.values(), key=lambda f: (_ORDER[f.kind], f.position))
