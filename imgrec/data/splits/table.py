"""Table of the split of a run: samples of training, validation and test with digests of their content."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import SPLITS, Source, SourceView
from imgrec.data.splits.assign import Rows, Splits
from imgrec.errors import UserError
from imgrec.utils import json_text
from imgrec.utils.paths import written_aside

COLUMNS = ("id", "split", "group", "label", "content")
"""The columns of splits.parquet."""

_CLASS_NAMES = b"class_names"
_SHOWN = 3


class SplitError(UserError):
    """The data is not the one that a split was stored for."""


@dataclass(frozen=True, eq=False)
class SplitTable:
    """The samples of a run, one row per sample.

    Args:
        ids: Id of each sample.
        splits: ``train``, ``val`` or ``test``.
        groups: Value of the column ``group`` of the source, or ``None``.
        labels: Name of the class, or the names of several classes joined by ``|``.
        content: Digest of the content of each sample, as in :meth:`imgrec.data.Source.row_digests`.
        class_names: Classes in the order of the targets.
    """

    ids: Sequence[str]
    splits: Sequence[str]
    groups: Sequence[str | None]
    labels: Sequence[str]
    content: Sequence[str]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def split_of(self) -> dict[str, str]:
        """The split of each id."""
        return dict(zip(self.ids, self.splits, strict=True))

    @cached_property
    def digest(self) -> str:
        """A digest of the whole table, 32 hexadecimal digits."""
        found = hashlib.blake2b(digest_size=16)
        for column in (self.class_names, self.ids, self.splits, self.labels, self.content):
            found.update("\0".join(column).encode("utf-8", "surrogatepass") + b"\1")
        return found.hexdigest()

    @classmethod
    def from_splits(cls, source: Source, splits: Splits) -> SplitTable:
        """Return the table of a source and its splits, in the order training, validation, test."""
        parts = {"train": splits.train, "val": splits.val, "test": splits.test}
        rows = np.concatenate(list(parts.values()))
        words = [word for word, part in parts.items() for _ in range(len(part))]
        group = source.columns.get("group")
        digests = source.row_digests
        return cls(
            [source.ids[row] for row in rows.tolist()],
            words,
            [None if group is None else str(group[row]) for row in rows.tolist()],
            labels_of(source, rows),
            [digests[row] for row in rows.tolist()],
            source.class_names,
        )

    def write(self, path: str | Path) -> None:
        """Write the table as a parquet file, through a temporary file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = json.dumps(list(self.class_names), ensure_ascii=False).encode()
        values = (self.ids, self.splits, self.groups, self.labels, self.content)
        schema = pa.schema([(name, pa.string()) for name in COLUMNS], {_CLASS_NAMES: names})
        columns = [pa.array(list(column), pa.string()) for column in values]
        with written_aside(path) as aside:
            pq.write_table(pa.table(columns, schema=schema), aside)

    @classmethod
    def read(cls, path: str | Path) -> SplitTable:
        """Read what :meth:`write` wrote.

        Raises:
            UserError: If the file is not parquet, or lacks a column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path)
            names = json_text.loads((table.schema.metadata or {}).get(_CLASS_NAMES, b"null"))
            missing = [name for name in COLUMNS if name not in table.column_names]
            if missing or not isinstance(names, list):
                lacks = f'the column "{missing[0]}"' if missing else "the class names in its metadata"
                raise UserError(f"{path}: expected the splits of a run, and it lacks {lacks}")
            ids, splits, groups, labels, content = (table.column(name).to_pylist() for name in COLUMNS)
        except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
            raise UserError(f"{path} is not a readable parquet file: {error}") from error
        if set(splits) - set(SPLITS) or len(set(ids)) < len(ids):
            raise UserError(f"{path}: expected each id once, with train, val or test as its split")
        return cls(ids, splits, groups, labels, content, tuple(names))

    # ---------------------------------------------------------------- with the present data

    def splits_in(self, source: Source) -> Splits:
        """Return the rows of the samples that the source has, by split."""
        row_of = {name: row for row, name in enumerate(source.ids)}
        found: dict[str, list[int]] = {word: [] for word in SPLITS}
        for name, word in zip(self.ids, self.splits, strict=True):
            if name in row_of:
                found[word].append(row_of[name])
        ordered = (sorted(found[word], key=source.ids.__getitem__) for word in SPLITS)
        return Splits(*(np.asarray(rows, dtype=np.int64) for rows in ordered))

    def merged(self, source: Source, computed: Splits) -> Splits:
        """Return ``computed`` with every sample of this table in the split that the table has for it."""
        words: dict[str, str] = {}
        for word, rows in (("train", computed.train), ("val", computed.val), ("test", computed.test)):
            words |= {source.ids[row]: word for row in rows.tolist()}
        words |= {name: word for name, word in self.split_of.items() if name in words}
        ids = list(words)
        return SplitTable(ids, list(words.values()), [], [], [], self.class_names).splits_in(source)

    def check(self, source: Source, left_out: Sequence[str] = ()) -> list[str]:
        """Reject a source that is not the data of this table, and return the ids that only the source has.

        Args:
            source: the data, with the labels that a run would be trained on.
            left_out: ids that the config leaves out.

        Raises:
            SplitError: If samples are missing, or have another label or other content. The message has the counts for
                each split, and the first ids.
        """
        out = set(left_out)
        row_of = {name: row for row, name in enumerate(source.ids) if name not in out}
        new = [name for name in row_of if name not in self.split_of]
        missing = [name for name in self.ids if name not in row_of]
        if missing:
            raise SplitError(
                f"{self._counted(missing)} missing{_listed(missing)}. The data has {len(new):,} images that the run "
                f"does not have{_listed(new)}"
            )
        rows = np.asarray([row_of[name] for name in self.ids], dtype=np.int64)
        labels, digests = labels_of(source, rows), source.row_digests
        other = [i for i, label in enumerate(labels) if label != self.labels[i]]
        changed = [i for i, row in enumerate(rows.tolist()) if digests[row] != self.content[i]]
        if other:
            names = [self.ids[i] for i in other]
            first = other[0]
            raise SplitError(
                f"{self._counted(names)} of another class now: {names[0]} was {self.labels[first]} and is "
                f"{labels[first]}{_listed(names[1:], ', and so are')}"
            )
        if changed:
            names = [self.ids[i] for i in changed]
            raise SplitError(f"{self._counted(names).removesuffix(' are')} have other content now{_listed(names)}")
        return new

    def check_predictions(self, split: str, ids: Sequence[str], labels: Sequence[str]) -> None:
        """Refuse predictions of other images than those of a split.

        Args:
            split: ``train``, ``val`` or ``test``.
            ids: id of each predicted image.
            labels: name of its class.

        Raises:
            SplitError: If an id is not in the split, or has another label.
        """
        known = {i: label for i, s, label in zip(self.ids, self.splits, self.labels, strict=True) if s == split}
        other = [name for name, label in zip(ids, labels, strict=True) if known.get(name) != label]
        if other:
            raise SplitError(
                f"{len(other):,} of {len(ids):,} evaluated images are not {split} images of the run, or have another "
                f"class{_listed(other)}"
            )

    def trained_on(self, source: Source, rows: Rows) -> list[str]:
        """Return the ids of those rows that are training samples of this table, with the same content."""
        own = {i: c for i, c, s in zip(self.ids, self.content, self.splits, strict=True) if s == "train"}
        digests = source.row_digests
        return [source.ids[row] for row in rows.tolist() if own.get(source.ids[row]) == digests[row]]

    def _counted(self, names: Sequence[str]) -> str:
        """Return the number of samples for each split: ``2 of 1,439 train and 1 of 179 test images are``."""
        sizes, found = Counter(self.splits), Counter(self.split_of[name] for name in names)
        parts = [f"{found[word]:,} of {sizes[word]:,} {word}" for word in SPLITS if found[word]]
        return f"{' and '.join(parts)} images are"


def labels_of(source: Source, rows: NDArray[np.int64]) -> list[str]:
    """Return the class name of each row, or the names of several classes joined by ``|``."""
    names = source.class_names
    if source.multi_label:
        return ["|".join(names[i] for i in np.flatnonzero(source.targets[row] > 0.5)) for row in rows.tolist()]
    return [names[target] for target in source.targets[rows].tolist()]


def with_classes(source: Source, class_names: tuple[str, ...]) -> Source:
    """Return the source with these classes in this order. Images of other classes are left out."""
    if source.class_names == class_names:
        return source
    number = {name: i for i, name in enumerate(class_names)}
    if source.multi_label:
        table = np.zeros((len(source), len(class_names)), dtype=np.float32)
        for column, name in enumerate(source.class_names):
            if name in number:
                table[:, number[name]] = source.targets[:, column]
        return SourceView(source, targets=table, class_names=class_names)
    new = np.asarray([number.get(name, -1) for name in source.class_names])[source.targets]
    rows = np.flatnonzero(new >= 0)
    return SourceView(source, rows, new[rows], class_names)


def _listed(names: Sequence[str], word: str = "") -> str:
    """Return the first ids after a colon or other words, or an empty string if there are none."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{word or ':'} {', '.join(names[:_SHOWN])}{more}" if names else ""
