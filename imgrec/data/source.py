"""A source: a flat table of labelled images, whatever they lie in."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

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
        targets: the class of each row, from 0.
        class_names: the names of the classes, in the order that ``targets`` counts.
        splits: ``"train"``, ``"val"`` or ``"test"`` for each row, or ``None`` where that is still to be decided.
        in_memory: whether reading an image touches no disk and decodes nothing, so that worker processes do not pay.

    Raises:
        UserError: no image, one class only, an id or a class name twice (an image in two splits, say), a target out of
            range, an unknown split.
    """

    def __init__(
        self,
        ids: Sequence[str],
        targets: Sequence[int] | NDArray[np.int64],
        class_names: Sequence[str],
        splits: Sequence[str | None] | None = None,
        in_memory: bool = False,
    ) -> None:
        self.ids = list(ids)
        self.targets = np.asarray(targets, dtype=np.int64)
        self.class_names = tuple(class_names)
        self.splits: list[str | None] = [None] * len(self.ids) if splits is None else list(splits)
        self.in_memory = in_memory
        self._check()

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def load(self, index: int) -> Tensor:
        """The image of a row: uint8 ``(1 or 3, height, width)``.

        Raises:
            BadImage: it cannot be read.
        """

    def content(self) -> Iterator[bytes]:
        """What cheaply tells one set of pixels from another, for the fingerprint: file sizes, an array's bytes."""
        return iter(())

    def fingerprint(self) -> str:
        """32 hexadecimal digits that change when ids, targets, splits, class names or :meth:`content` do."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.ids, self.class_names, [split or "" for split in self.splits]):
            digest.update("\0".join(part).encode("utf-8", "backslashreplace") + b"\1")
        digest.update(self.targets.astype("<i8").tobytes())
        for piece in self.content():
            digest.update(piece)
        return digest.hexdigest()

    def _check(self) -> None:
        if not self.ids:
            raise UserError("no image at all.")
        if not len(self.ids) == len(self.targets) == len(self.splits):
            raise UserError(
                f"{len(self.ids)} ids, {len(self.targets)} targets and {len(self.splits)} splits: one of each a row."
            )
        if len(self.class_names) < 2:
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
                raise UserError(f'the {what} "{word}" stands there more than once{where}.')
        if self.targets.min() < 0 or self.targets.max() >= len(self.class_names):
            raise UserError(
                f"targets from {self.targets.min()} to {self.targets.max()} for {len(self.class_names)} classes: "
                f"accepted are 0 to {len(self.class_names) - 1}."
            )
        unknown = set(self.splits) - {*SPLITS, None}
        if unknown:
            raise UserError(f'no split is called "{unknown.pop()}". Accepted: train, val, test, or none.')


SOURCES: Registry[Source] = Registry("source", "sources")
"""Where images come from, by name; the key of each is its name in ``data.source``."""
