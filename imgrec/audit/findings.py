"""What an audit can find: the words for it, one finding, and the lists that are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgrec.audit.messages import rule_of
from imgrec.data import Source, Splits
from imgrec.data.wrappers.corrections import EXCLUDE, RELABEL
from imgrec.utils.csv_files import rows_written

COLUMNS = ("id", "split", "class", "finding", "detail", "related", "action", "reason")
"""The columns of a list of findings; :mod:`imgrec.data.wrappers.corrections` reads it back."""

KINDS: dict[str, str] = {
    "duplicate_across_splits": "the same pixels in two splits: what is evaluated was trained on",
    "duplicate_across_classes": "the same pixels under two labels",
    "near_duplicate_across_splits": "nearly the same image in two splits: resized, say, or compressed again",
    "near_duplicate_across_classes": "nearly the same image under two labels",
    "label_error": "a model that did not train on it is sure of another class",
    "missing": "no such file",
    "empty": "a file without a byte",
    "truncated": "the end of the file is missing",
    "unreadable": "it cannot be decoded",
    "damaged": "it can be decoded, but its decoder reports a fault in the file",
    "misnamed": "the content is of another format than the ending says",
    "too_small": "far fewer pixels than the others have",
    "odd_aspect": "far longer or wider than the others",
    "blank": "one colour, nearly",
    "dark": "hardly a pixel that is not dark",
    "bright": "hardly a pixel that is not bright",
    "blurred": "far less detail than the others have",
    "grey": "a grey image among coloured ones",
    "duplicate": "the same pixels again, in the same split and class",
    "near_duplicate": "nearly the same image again, in the same split and class",
}
"""Every kind of finding and what it means, the worst first."""

UNREADABLE = ("missing", "empty", "truncated", "unreadable")
"""The kinds of images that give no pixels."""

_ORDER = {kind: number for number, kind in enumerate(KINDS)}


@dataclass(frozen=True)
class Finding:
    """One thing found of one image.

    ``position`` counts the audited images; ``related`` is the position of the other image of a duplicate;
    ``action`` is proposed: ``exclude``, ``decide``, ``relabel: <class>``, or nothing. Of one kind, findings with more
    ``weight`` come first.
    """

    position: int
    kind: str
    detail: str
    related: int | None = None
    action: str = ""
    weight: float = 0.0


@dataclass(frozen=True)
class Inventory:
    """The images that an audit looks at: rows of a source, each with its split; ``position`` counts them from 0."""

    source: Source
    rows: NDArray[np.int64]
    splits: Sequence[str]

    @classmethod
    def of(cls, source: Source, splits: Splits) -> Inventory:
        """All images of three splits."""
        parts = {"train": splits.train, "val": splits.val, "test": splits.test}
        words = [word for word, rows in parts.items() for _ in range(len(rows))]
        return cls(source, np.concatenate(list(parts.values())), words)

    def __len__(self) -> int:
        return len(self.rows)

    def id(self, position: int) -> str:
        """The id of an image."""
        return self.source.ids[int(self.rows[position])]

    def class_name(self, position: int) -> str:
        """The name of its class; the names of its classes where it may have several."""
        target = self.source.targets[int(self.rows[position])]
        if not self.source.multi_label:
            return self.source.class_names[int(target)]
        return " + ".join(self.source.class_names[i] for i in np.flatnonzero(target > 0.5))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """A number for each image, equal for equal labels."""
        targets = self.source.targets[self.rows]
        if not self.source.multi_label:
            return np.asarray(targets, dtype=np.int64)
        return np.asarray(np.unique(targets, axis=0, return_inverse=True)[1].ravel(), dtype=np.int64)

    @cached_property
    def ranks(self) -> NDArray[np.int64]:
        """0 for test images, 1 for validation, 2 for training: of two equal images the lower one is to stay."""
        ranks = {"test": 0, "val": 1, "train": 2}
        return np.asarray([ranks[split] for split in self.splits], dtype=np.int64)


def in_order(findings: Iterable[Finding], inventory: Inventory) -> list[Finding]:
    """The findings, the worst kind first, in one kind by weight, then by id."""
    return sorted(findings, key=lambda f: (_ORDER[f.kind], -f.weight, inventory.id(f.position)))


def write_findings(path: str | Path, findings: Iterable[Finding], inventory: Inventory) -> None:
    """Write a CSV with one row a finding, whole or not at all."""
    with rows_written(path) as write:
        write(COLUMNS)
        for found in findings:
            related = "" if found.related is None else inventory.id(found.related)
            place = inventory.splits[found.position], inventory.class_name(found.position)
            last = found.detail, related, found.action, rule_of(found.action)
            write([inventory.id(found.position), *place, found.kind, *last])


def proposals(findings: Iterable[Finding], relabel: bool = False) -> list[Finding]:
    """Return the findings that ``--fix`` applies, at most one for each image.

    The rules are those of :data:`imgrec.audit.messages.RULES`.

    An image that is excluded is not relabelled.

    Args:
        findings: all findings.
        relabel: include new labels of training images.
    """
    chosen: dict[int, Finding] = {}
    for found in sorted(findings, key=lambda f: (f.action != EXCLUDE, _ORDER[f.kind])):
        if found.action == EXCLUDE or (relabel and found.action.startswith(RELABEL)):
            chosen.setdefault(found.position, found)
    return sorted(chosen.values(), key=lambda f: (_ORDER[f.kind], f.position))
