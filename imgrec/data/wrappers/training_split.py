"""Functions for sources that alter the training images of another: its splits and random ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import Source
from imgrec.data.splits.assign import Rows, split_source
from imgrec.errors import UserError, suggestion
from imgrec.utils.seeding import position_seed

_STORED: ContextVar[Mapping[str, str] | None] = ContextVar("stored_splits", default=None)


@contextmanager
def with_stored_splits(splits: Mapping[str, str] | None) -> Iterator[None]:
    """Build sources within this context by the stored split of each id, instead of drawing which images to alter.

    A source that alters training images depends on which images are for training, and on which others are there. With
    the stored split of a run, it gives the images of that run although the data has further images now.
    """
    token = _STORED.set(splits)
    try:
        yield
    finally:
        _STORED.reset(token)


def stored_splits(source: Source) -> list[str | None] | None:
    """Return the stored split of each row, with ``None`` for new rows, or ``None`` if no split is stored.

    In a source that puts a name before the ids of its parts, as ``concat`` does, the name is found by the ids. If
    several parts have the same ids, it is not, and nothing counts as stored.
    """
    stored = _STORED.get()
    if stored is None:
        return None
    prefixes = {"", *(f"{name.partition('/')[0]}/" for name in stored)}
    fitting = [prefix for prefix in prefixes if any(f"{prefix}{name}" in stored for name in source.ids)]
    if len(fitting) != 1:
        return None
    return [stored.get(f"{fitting[0]}{name}") for name in source.ids]


def assign_splits(source: Source, val_fraction: float, test_fraction: float, seed: int) -> list[str | None]:
    """Return the split of each row of a source, stored (:func:`stored_splits`) or by :func:`imgrec.data.split_source`.

    A source that alters training images calls it first, so that validation and test are the same without it.
    """
    stored = stored_splits(source)
    if stored is not None:
        return stored
    parts = split_source(source, val_fraction, test_fraction, seed)
    words: list[str | None] = [None] * len(source)
    for word, rows in (("train", parts.train), ("val", parts.val), ("test", parts.test)):
        for row in rows.tolist():
            words[row] = word
    return words


def rows_of(splits: Sequence[str | None], *words: str) -> Rows:
    """Return the rows of these splits in ascending order."""
    return np.flatnonzero(np.isin(np.asarray(splits, dtype=object), words))


def ranks_in_class(source: Source, rows: Rows, *position: int | str) -> NDArray[np.int64]:
    """Return the random rank of each row within its class, from 0, as a function of the position and the ids.

    The order of the other rows does not change if a row is added or left out.
    """
    keys = [(position_seed(*position, source.ids[row]), source.ids[row]) for row in rows.tolist()]
    order = np.asarray(sorted(range(len(rows)), key=keys.__getitem__), dtype=np.int64)
    targets = source.targets[rows[order]]
    ranks = np.empty(len(rows), dtype=np.int64)
    for target in np.unique(targets):
        among = order[targets == target]
        ranks[among] = np.arange(len(among))
    return ranks


def check_class_names(names: Sequence[str], class_names: Sequence[str], where: str) -> None:
    """Raise :class:`UserError` for a name that no class has, with the nearest one."""
    for name in names:
        if name not in class_names:
            listed = f"{', '.join(class_names[:20])}{' and more' if len(class_names) > 20 else ''}"
            raise UserError(
                f'{where}: the data has no class "{name}".{suggestion(name, class_names)} It has: {listed}.'
            )
