"""Concatenation of several sources."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imgrec.data.sources.base import SOURCES, Source
from imgrec.errors import UserError


@SOURCES.register("concat")
class ConcatSource(Source):
    """Concatenation of several sources, each with a weight.

    Classes of one name are one class. Their order is that of the first source, followed by the additional classes of
    the next ones. The id of an image is the name of its source and its id there. Each image keeps its split. If only
    some sources have splits, the images of the others are training images.

    A weight is the expected number of uses of each image in an epoch of training. With 3, each image is used three
    times with different augmentation. With 0.25, a different quarter is used in each epoch, as a function of seed
    and epoch. Weights have no effect on validation and test.

    Args:
        sources: Sources, as in ``data.source``.
        weights: One weight above 0 for each source. Defaults to 1.
        names: One name for each source, for the ids. Defaults to their indices.

    Raises:
        UserError: If there is no source, if the number of weights or names differs, or if only some sources have
            several labels per image.

    Example::

        source: {name: concat, sources: [digits, {name: folder, root: my_digits}], weights: [1, 3]}
    """

    def __init__(
        self,
        sources: list[Annotated[Any, SOURCES]],
        weights: list[float] | None = None,
        names: list[str] | None = None,
    ) -> None:
        self.check_arguments(sources, weights, names)
        self.sources: list[Source] = list(sources)
        parts = names or [str(number) for number in range(len(sources))]
        if len({source.multi_label for source in self.sources}) > 1:
            several = [name for name, source in zip(parts, self.sources, strict=True) if source.multi_label]
            raise UserError(
                f"sources: expected one label per image in all or in none, got several in {', '.join(several)}."
            )
        classes = list(dict.fromkeys(name for source in self.sources for name in source.class_names))
        self.is_deterministic = all(source.is_deterministic for source in self.sources)
        self._starts = np.cumsum([0, *map(len, self.sources)])
        factors = np.repeat(weights or [1.0] * len(sources), [len(source) for source in self.sources])
        own = [np.ones(len(source)) if source.repeats is None else source.repeats for source in self.sources]
        repeats = factors * np.concatenate(own)
        super().__init__(
            ids=[f"{part}/{name}" for part, source in zip(parts, self.sources, strict=True) for name in source.ids],
            targets=np.concatenate([_targets(source, classes) for source in self.sources]),
            class_names=classes,
            splits=[split for source in self.sources for split in source.splits],
            in_memory=all(source.in_memory for source in self.sources),
            columns=_columns(self.sources),
            repeats=None if (repeats == 1).all() else repeats,
        )

    @staticmethod
    def check_arguments(sources: list[Any], weights: list[float] | None = None, names: list[str] | None = None) -> None:
        """Raise :class:`UserError` for arguments that contradict each other, before any data is read."""
        if not isinstance(sources, list) or not sources:
            raise UserError("sources: expected a list of one source or more.")
        for what, given in (("weights", weights), ("names", names)):
            if given is not None and len(given) != len(sources):
                raise UserError(f"{what}: expected one for each of {len(sources)} sources, got {len(given)}.")
        wrong = [weight for weight in weights or [] if not 0 < weight < math.inf]
        if wrong:
            raise UserError(f"weights: expected float > 0, got {wrong[0]}. Remove the source instead.")
        if names is not None and len(set(names)) < len(names):
            raise UserError(f"names: expected different names, got {', '.join(names)}.")

    def load(self, index: int) -> Tensor:  # noqa: D102
        source, row = self._at(index)
        return source.load(row)

    def path(self, index: int) -> Path | None:  # noqa: D102
        source, row = self._at(index)
        return source.path(row)

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:  # noqa: D102
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        parts: list[tuple[Tensor, Tensor]] = []
        for number in np.unique(numbers).tolist():
            places = np.flatnonzero(numbers == number)
            part = self.sources[number].gather(rows[places] - int(self._starts[number]))
            if part is None or (parts and part.shape[1:] != parts[0][1].shape[1:]):
                return None
            parts.append((torch.from_numpy(places), part))
        if not parts:
            return None
        found = parts[0][1].new_empty(len(rows), *parts[0][1].shape[1:])
        for index, part in parts:
            found[index] = part
        return found

    def content(self) -> Iterator[bytes]:  # noqa: D102
        for source in self.sources:
            yield from source.content()

    def state(self) -> Iterator[bytes]:  # noqa: D102
        for source in self.sources:
            yield from source.state()

    @cached_property
    def row_digests(self) -> list[str]:
        """Digests of the rows of all sources, one source after another."""
        return [digest for source in self.sources for digest in source.row_digests]

    def _at(self, index: int) -> tuple[Source, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.sources[number], index - int(self._starts[number])


def _targets(source: Source, classes: list[str]) -> NDArray[Any]:
    numbers = np.asarray([classes.index(name) for name in source.class_names])
    if not source.multi_label:
        return np.asarray(numbers[source.targets])
    table = np.zeros((len(source), len(classes)), dtype=np.float32)
    table[:, numbers] = source.targets
    return table


def _columns(sources: list[Source]) -> dict[str, NDArray[Any]]:
    """Return the columns of all sources, with ``None`` for a source without the column."""
    found: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys(name for source in sources for name in source.columns):
        parts = [source.columns.get(name, np.full(len(source), None)) for source in sources]
        same = len({part.dtype.kind for part in parts}) == 1
        found[name] = np.concatenate(parts if same else [part.astype(object) for part in parts])
    return found


Concat = ConcatSource
"""Earlier name of :class:`ConcatSource`."""
