"""Some rows of a source, with other labels or splits if wanted: what leaves out, relabels or renames is a view."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from imgrec.data.sources.base import Source


class View(Source):
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
    >>> evens = View(Digits(), rows=range(0, 1797, 2))
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
