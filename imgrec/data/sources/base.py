"""Source: a flat table of labelled images, and a view of the rows of another source."""

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
    """Flat table of labelled images with one row per image, read on demand.

    A subclass passes the table to the constructor and reads the image of a row in :meth:`load`::

        @SOURCES.register("noise")
        class Noise(Source):
            def __init__(self, count: int = 100) -> None:
                super().__init__([f"{i:05d}" for i in range(count)], [i % 2 for i in range(count)], ["a", "b"])

            def load(self, index: int) -> Tensor:
                return torch.randint(256, (3, 8, 8), generator=position_generator(index), dtype=torch.uint8)

    Args:
        ids: Stable, unique name of each row: a relative path with forward slashes, or a key.
        targets: Class index of each row, or a table ``(rows, classes)`` of 0 and 1 if an image can have several labels
            or none (multi-label).
        class_names: Names of the classes in the order of ``targets``, stored in Unicode form NFC.
        splits: ``"train"``, ``"val"``, ``"test"`` or ``None`` (not assigned) for each row. Defaults to not assigned.
        in_memory: True if reading an image needs no disk access and no decoding, so that worker processes have no
            benefit. Defaults to False.
        columns: Additional values of the rows by name, one value for each row.
        repeats: Expected number of uses of each row in an epoch of training, as in
            :class:`imgrec.data.TrainingSampler`. Defaults to one.

    Raises:
        UserError: If there is no image or only one class, or if an id or a class name occurs twice. If a target is out
            of range, a split is unknown, or a column has another length.
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
        """Return the image of a row: uint8 ``(1 or 3, height, width)``.

        Raises:
            BadImage: If it cannot be read.
        """

    def path(self, index: int) -> Path | None:
        """Return the image file of a row, or ``None`` if an image has no separate file."""
        return None

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the images of several rows if they are one copy from memory, otherwise ``None``.

        Shapes: ``rows`` int64 ``(batch,)``. The result is uint8 ``(batch, 1 or 3, height, width)`` with the pixels of
        :meth:`load`.
        """
        return None

    @property
    def multi_label(self) -> bool:
        """True if an image can have several labels or none. ``targets`` is then a table of rows and classes."""
        return self.targets.ndim == 2

    def class_counts(self, rows: Iterable[int] | NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Return the number of images of each class, in all rows or in the given ones."""
        targets = self.targets if rows is None else self.targets[np.asarray(rows, dtype=np.int64)]
        if self.multi_label:
            return np.asarray((targets > 0.5).sum(0), dtype=np.int64)
        return np.bincount(targets, minlength=len(self.class_names))

    def content(self) -> Iterator[bytes]:
        """Yield bytes that identify the pixels at low cost, for the fingerprint: file sizes, bytes of an array."""
        return iter(())

    def state(self) -> Iterator[bytes]:
        """Yield :meth:`content` and properties that change on this machine with an image, such as modification times.

        They are part of the key of a cache. The fingerprint does not contain them, because it is equal on all machines.
        """
        return self.content()

    def fingerprint(self) -> str:
        """Return a digest of ids, targets, splits, class names and :meth:`content`: 32 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.ids, self.class_names, [split or "" for split in self.splits]):
            digest.update("\0".join(part).encode("utf-8", "backslashreplace") + b"\1")
        digest.update(self.targets.astype("<f4" if self.multi_label else "<i8").tobytes())
        for piece in self.content():
            digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def row_digests(self) -> list[str]:
        """Digest of the :meth:`content` of each row, 16 hexadecimal digits.

        If the content has one piece per row, such as the sizes of files, a row has the digest of its piece. Otherwise
        every row has the digest of all pieces.
        """
        pieces = [hashlib.blake2b(piece, digest_size=8).hexdigest() for piece in self.content()]
        if len(pieces) == len(self):
            return pieces
        return [hashlib.blake2b("".join(pieces).encode(), digest_size=8).hexdigest()] * len(self)

    def _check(self) -> None:
        if not self.ids:
            raise UserError("expected one image or more, got no image at all.")
        if not len(self.ids) == len(self.targets) == len(self.splits):
            raise UserError(
                f"expected one id, target and split per row, got {len(self.ids)} ids, {len(self.targets)} targets and "
                f"{len(self.splits)} splits."
            )
        if len(self.class_names) < (1 if is_evaluation() else 2):
            found = ", ".join(self.class_names) or "none"
            raise UserError(f"expected two classes or more, got one only: {found}.")
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
                raise UserError(f'column "{name}": expected {len(self.ids)} values, got {len(values)}.')
        if self.multi_label:
            self._check_labels()
        elif self.targets.min() < 0 or self.targets.max() >= len(self.class_names):
            raise UserError(
                f"expected targets from 0 to {len(self.class_names) - 1} for {len(self.class_names)} classes, got "
                f"{self.targets.min()} to {self.targets.max()}."
            )
        unknown = set(self.splits) - {*SPLITS, None}
        if unknown:
            raise UserError(f'expected the split train, val, test or none, got "{unknown.pop()}".')

    def _check_labels(self) -> None:
        if self.targets.shape[1] != len(self.class_names):
            raise UserError(
                f"expected a table of {len(self.class_names)} classes, got {self.targets.shape[1]} columns."
            )
        wrong = np.argwhere((self.targets != 0) & (self.targets != 1))
        if len(wrong):
            row, number = wrong[0]
            raise UserError(
                f'label "{self.class_names[number]}" of {self.ids[row]}: expected 0 or 1, got '
                f"{self.targets[row, number]:g}."
            )


class SourceView(Source):
    """Rows of another source in a given order, with its images and optionally with other labels or splits.

    Args:
        base: Source of the images.
        rows: Rows of ``base`` in their order. Defaults to all rows.
        targets: Targets of these rows. Defaults to those of ``base``.
        class_names: Class names for ``targets``. Defaults to those of ``base``.
        splits: Splits of these rows. Defaults to those of ``base``.
        columns: Additional columns of these rows.

    Raises:
        UserError: If the table is invalid, as in :class:`imgrec.data.Source`.

    Example:
        >>> from imgrec.data import Digits
        >>> evens = SourceView(Digits(), rows=range(0, 1797, 2))
        >>> len(evens), evens.ids[1]
        (899, '0002')
    """

    narrow = False
    """True if a cache contains only these rows instead of all rows of ``base``, for views of few rows."""

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
        """Digests of these rows in ``base``."""
        below = self.base.row_digests
        return [below[row] for row in self.rows.tolist()]


SOURCES: Registry[Source] = Registry("source", "sources", specific=("root", "path", "dataset", "splits"))
"""Sources of images by their name in ``data.source``."""
