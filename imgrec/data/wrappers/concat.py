"""Several sources as one."""

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
class Concat(Source):
    """Several sources one after another, each with a weight.

    A class is the same in all sources that have a class of its name; the classes stand in the order of the first
    source, followed by what the next ones add. An image's id is the name of its source and its id there. Each image
    keeps its split; where one source has splits and another none, the images of the latter are for training.

    A weight says how often the images of a source are expected in an epoch of training: with 3 each comes three times,
    augmented differently; with 0.25 a quarter of them comes, another quarter in each epoch. Which ones is a function
    of seed and epoch; the weights change nothing in validation and test, and no image gets into two splits.

    Args:
        sources: the sources, as in ``data.source``.
        weights: one number above 0 for each source; by default 1 each.
        names: one name for each source, for the ids; by default their numbers, from 0.

    Raises:
        UserError: no source, another number of weights or names, a weight that cannot be, or sources of which some
            have one label an image and others several.

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
            raise UserError(f"sources with several labels an image ({', '.join(several)}) beside sources with one.")
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
        """Raise :class:`UserError` for what can be told to be wrong before anything is read."""
        if not isinstance(sources, list) or not sources:
            raise UserError("sources: a list of one source or more.")
        for what, given in (("weights", weights), ("names", names)):
            if given is not None and len(given) != len(sources):
                raise UserError(f"{what}: one for each of the {len(sources)} sources, got {len(given)}.")
        wrong = [weight for weight in weights or [] if not 0 < weight < math.inf]
        if wrong:
            raise UserError(f"weights: numbers above 0, got {wrong[0]}; leave a source out instead.")
        if names is not None and len(set(names)) < len(names):
            raise UserError(f"names: each another one, got {', '.join(names)}.")

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
        """The digests of the rows of all sources, one source after another."""
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
    """The columns of all sources; ``None`` where a source lacks one that another has."""
    found: dict[str, NDArray[Any]] = {}
    for name in dict.fromkeys(name for source in sources for name in source.columns):
        parts = [source.columns.get(name, np.full(len(source), None)) for source in sources]
        same = len({part.dtype.kind for part in parts}) == 1
        found[name] = np.concatenate(parts if same else [part.astype(object) for part in parts])
    return found
