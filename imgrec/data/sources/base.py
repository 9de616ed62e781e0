"""A source: a flat table of labelled images, whatever they lie in."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from imgrec.data.purpose import is_evaluation
from imgrec.data.sources.file_names import class_name
from imgrec.errors import UserError
from imgrec.registry import Registry

SPLITS = ("train", "val", "test")


class Source(ABC):
    """A flat table of labelled images: one row an image, read on demand.

    A subclass says in its constructor what rows there are, and in :meth:`load` how the image of a row is read::

        @SOURCES.register("noise")
        class Noise(Source):
            def __init__(self, count: int = 100) -> None:
                super().__init__([f"{i:05d}" for i in range(count)], [i % 2 for i in range(count)], ["a", "b"])

            def load(self, index: int) -> Tensor:
                return torch.randint(256, (3, 8, 8), generator=position_generator(index), dtype=torch.uint8)

    Args:
        ids: one stable name a row, unique in the table: a relative path with forward slashes, or a key.
        targets: the class of each row, from 0; or, where an image may have several labels or none, a table of
            ``(rows, classes)`` with 1 where a row has the class, 0 where it has not (multi-label).
        class_names: the names of the classes, in the order that ``targets`` counts; stored in Unicode form NFC.
        splits: ``"train"``, ``"val"`` or ``"test"`` for each row, or ``None`` where that is still to be decided.
        in_memory: whether reading an image touches no disk and decodes nothing, so that worker processes do not pay.
        columns: whatever else is known of the rows, one value a row each, by name: kept for those who ask.
        repeats: how often each row is expected in an epoch of training, where that is not once; see
            :class:`imgrec.data.TrainingSampler`.

    Raises:
        UserError: no image, one class only, an id or a class name twice (an image in two splits, say), a target out of
            range, an unknown split, a column of another length.
    """

    def __init__(
        self,
        ids: Sequence[str],
        targets: ArrayLike,
        class_names: Sequence[str],
        splits: Sequence[str | None] | None = None,
        in_memory: bool = False,
        columns: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
        repeats: ArrayLike | None = None,
    ) -> None:
        self.ids = list(ids)
        table = np.asarray(targets)
        self.targets: NDArray[Any] = table.astype(np.float32 if table.ndim == 2 else np.int64)
        self.class_names = tuple(class_name(name) for name in class_names)
        self.columns = {name: np.asarray(values) for name, values in (columns or {}).items()}
        self.repeats = None if repeats is None else np.asarray(repeats, dtype=np.float64)
        self.splits: list[str | None] = [None] * len(self.ids) if splits is None else list(splits)
        self.in_memory = in_memory
        self._check()

    def __len__(self) -> int:
        return len(self.ids)

    is_deterministic: bool = True
    """False if two readings of a row can return different pixels."""

    @abstractmethod
    def load(self, index: int) -> Tensor:
        """The image of a row: uint8 ``(1 or 3, height, width)``.

        Raises:
            BadImage: it cannot be read.
        """

    def path(self, index: int) -> Path | None:
        """The image file of a row; ``None`` where an image has no file of its own."""
        return None

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:
        """The images of these rows at once, where that is one copy from memory; ``None`` where it is not.

        Shapes: ``rows`` int64 ``(batch,)``; the images uint8 ``(batch, 1 or 3, height, width)``, the same pixels that
        :meth:`load` gives row by row.
        """
        return None

    @property
    def multi_label(self) -> bool:
        """Whether an image may have several labels or none: ``targets`` is a table of rows by classes then."""
        return self.targets.ndim == 2

    def class_counts(self, rows: Iterable[int] | NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """How many of these rows, or of all, have each class."""
        chosen = self.targets if rows is None else self.targets[np.asarray(rows, dtype=np.int64)]
        if self.multi_label:
            return np.asarray((chosen > 0.5).sum(0), dtype=np.int64)
        return np.bincount(chosen, minlength=len(self.class_names))

    def content(self) -> Iterator[bytes]:
        """What cheaply tells one set of pixels from another, for the fingerprint: file sizes, an array's bytes."""
        return iter(())

    def state(self) -> Iterator[bytes]:
        """Like :meth:`content`, and what else changes on this machine when an image does: when files were written.

        A cache of decoded images is keyed by it; the fingerprint is not, as it must be equal on other machines.
        """
        return self.content()

    def fingerprint(self) -> str:
        """32 hexadecimal digits that change when ids, targets, splits, class names or :meth:`content` do."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.ids, self.class_names, [split or "" for split in self.splits]):
            digest.update("\0".join(part).encode("utf-8", "backslashreplace") + b"\1")
        digest.update(self.targets.astype("<f4" if self.multi_label else "<i8").tobytes())
        for piece in self.content():
            digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def row_digests(self) -> list[str]:
        """A digest of the :meth:`content` of each row, 16 hexadecimal digits.

        A source whose content is one piece per row, such as the sizes of files, has a digest of each piece. Other
        sources have the digest of all pieces in every row: it changes if anything in the source does.
        """
        pieces = [hashlib.blake2b(piece, digest_size=8).hexdigest() for piece in self.content()]
        if len(pieces) == len(self):
            return pieces
        return [hashlib.blake2b("".join(pieces).encode(), digest_size=8).hexdigest()] * len(self)

    def _check(self) -> None:
        if not self.ids:
            raise UserError("no image at all.")
        if not len(self.ids) == len(self.targets) == len(self.splits):
            raise UserError(
                f"{len(self.ids)} ids, {len(self.targets)} targets and {len(self.splits)} splits: one of each a row."
            )
        if len(self.class_names) < (1 if is_evaluation() else 2):
            found = ", ".join(self.class_names) or "none"
            raise UserError(f"a classification needs two classes or more; found one only: {found}.")
        for what, words in (("id", self.ids), ("class name", self.class_names)):
            if len(set(words)) < len(words):
                word = next(w for w, n in Counter(words).items() if n > 1)
                where = ""
                if what == "id":
                    rows = [i for i, w in enumerate(words) if w == word]
                    named = {self.splits[row] for row in rows} - {None}
                    where = f", in the splits {' and '.join(sorted(map(str, named)))}" if len(named) > 1 else ""
                raise UserError(f'expected each {what} once, got "{word}" {words.count(word)} times{where}.')
        for name, values in [*self.columns.items(), ("repeats", self.repeats)]:
            if values is not None and values.shape[:1] != (len(self.ids),):
                raise UserError(f'the column "{name}" has {len(values)} values for {len(self.ids)} rows.')
        if self.multi_label:
            self._check_labels()
        elif self.targets.min() < 0 or self.targets.max() >= len(self.class_names):
            raise UserError(
                f"targets from {self.targets.min()} to {self.targets.max()} for {len(self.class_names)} classes: "
                f"accepted are 0 to {len(self.class_names) - 1}."
            )
        unknown = set(self.splits) - {*SPLITS, None}
        if unknown:
            raise UserError(f'no split is called "{unknown.pop()}". Accepted: train, val, test, or none.')

    def _check_labels(self) -> None:
        if self.targets.shape[1] != len(self.class_names):
            raise UserError(f"a table of {self.targets.shape[1]} labels for {len(self.class_names)} classes.")
        wrong = np.argwhere((self.targets != 0) & (self.targets != 1))
        if len(wrong):
            row, number = wrong[0]
            raise UserError(
                f'the label "{self.class_names[number]}" of {self.ids[row]} is {self.targets[row, number]:g}; accepted '
                "are 1, which has the class, and 0, which has not."
            )


class SourceView(Source):
    """Rows of another source, in a given order, with its labels or others; the images are the other source's.

    Args:
        base: the source that is looked at.
        rows: which of its rows, in which order; by default all.
        targets: the targets of these rows, where they are not those of ``base``.
        class_names: the classes that ``targets`` counts, where they are not those of ``base``.
        splits: the splits of these rows, where they are not those of ``base``.
        columns: what is known of these rows beside the columns of ``base``.

    Raises:
        UserError: what is left is no table that can be trained on: see :class:`imgrec.data.Source`.

    >>> from imgrec.data import Digits
    >>> evens = SourceView(Digits(), rows=range(0, 1797, 2))
    >>> len(evens), evens.ids[1]
    (899, '0002')
    """

    narrow = False
    """Whether a cache keeps its own rows only, and not all that ``base`` has: for what leaves most of them out."""

    def __init__(
        self,
        base: Source,
        rows: Sequence[int] | NDArray[np.int64] | None = None,
        targets: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
        splits: Sequence[str | None] | None = None,
        columns: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        self.base = base
        self.is_deterministic = base.is_deterministic
        self.rows = np.arange(len(base)) if rows is None else np.asarray(rows, dtype=np.int64)
        super().__init__(
            ids=[base.ids[row] for row in self.rows.tolist()],
            targets=base.targets[self.rows] if targets is None else targets,
            class_names=base.class_names if class_names is None else class_names,
            splits=[base.splits[row] for row in self.rows.tolist()] if splits is None else splits,
            in_memory=base.in_memory,
            columns={name: values[self.rows] for name, values in base.columns.items()} | dict(columns or {}),
            repeats=None if base.repeats is None else base.repeats[self.rows],
        )

    def load(self, index: int) -> Tensor:  # noqa: D102
        return self.base.load(int(self.rows[index]))

    def path(self, index: int) -> Path | None:  # noqa: D102
        return self.base.path(int(self.rows[index]))

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:  # noqa: D102
        return self.base.gather(self.rows[rows])

    def content(self) -> Iterator[bytes]:  # noqa: D102
        yield from self.base.content()

    def state(self) -> Iterator[bytes]:  # noqa: D102
        yield from self.base.state()

    @cached_property
    def row_digests(self) -> list[str]:
        """The digests of these rows in the source below."""
        below = self.base.row_digests
        return [below[row] for row in self.rows.tolist()]


SOURCES: Registry[Source] = Registry("source", "sources", specific=("root", "path", "dataset", "splits"))
"""Where images come from, by name; the key of each is its name in ``data.source``."""
