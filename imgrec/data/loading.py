"""From rows of a source to batches: reading, transforming, and what happens to images that cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imgrec.augment import Pipeline
from imgrec.data.decode import BadImage, to_channels
from imgrec.data.source import Source
from imgrec.errors import UserError
from imgrec.randomness import position_generator
from imgrec.types import Batch


class Sample(NamedTuple):
    """One row on its way into a batch; ``image`` is ``None`` where an evaluation image cannot be read."""

    image: Tensor | None
    target: int
    id: str
    skipped: tuple[tuple[str, str], ...] = ()


class _Rows:
    """Rows of a source, their transforms, and the seed of what these draw."""

    def __init__(
        self, source: Source, rows: NDArray[np.int64], pipeline: Pipeline, channels: Literal[1, 3], seed: int
    ) -> None:
        self.source = source
        self.rows = rows
        self.pipeline = pipeline
        self.channels: Literal[1, 3] = channels
        self.seed = seed

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, row: int, *draw: int | str) -> Tensor:
        """The transformed image of a row. Raises :class:`BadImage`."""
        image = to_channels(self.source.load(row), self.channels)
        name = self.source.ids[row]
        try:
            return self.pipeline(image, position_generator(self.seed, *draw, name))
        except UserError as error:
            raise UserError(f"{error} The image: {name}.") from error


class TrainingSet(_Rows, Dataset[Sample]):
    """Training samples by (position, epoch); what is drawn for one is a function of (seed, epoch, id).

    In the place of an image that cannot be read stands the next one that can, in the order of the split: the batch
    keeps its size, and the sample names what it stands for.
    """

    def __getitem__(self, place: tuple[int, int] | int) -> Sample:
        position, epoch = (place, 0) if isinstance(place, int) else place
        skipped: list[tuple[str, str]] = []
        for step in range(len(self)):
            row = int(self.rows[(position + step) % len(self)])
            try:
                image = self.read(row, epoch)
            except BadImage as error:
                skipped.append((self.source.ids[row], error.reason))
                continue
            return Sample(image, int(self.source.targets[row]), self.source.ids[row], tuple(skipped))
        raise UserError(f"none of the {len(self)} training images can be read; {_listed(skipped)}")


class EvaluationSet(_Rows, Dataset[Sample]):
    """Evaluation samples by position, the same at every time; one that cannot be read has no image."""

    def __getitem__(self, position: int) -> Sample:
        row = int(self.rows[position])
        name = self.source.ids[row]
        try:
            image = self.read(row, "evaluation")
        except BadImage as error:
            return Sample(None, int(self.source.targets[row]), name, ((name, error.reason),))
        return Sample(image, int(self.source.targets[row]), name)


class Collate:
    """Samples to a :class:`Batch`; those without an image are left out, and named in ``skipped``.

    Args:
        channels: channels of an image; for a batch in which none can be read.
        image_size: side of an image, in pixels; likewise.
    """

    def __init__(self, channels: int, image_size: int) -> None:
        self.shape = (channels, image_size, image_size)

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """The batch."""
        images = [s.image for s in samples if s.image is not None]
        there = [s for s in samples if s.image is not None]
        return Batch(
            images=torch.stack(images) if images else torch.empty(0, *self.shape, dtype=torch.uint8),
            targets=torch.tensor([s.target for s in there], dtype=torch.int64),
            ids=tuple(s.id for s in there),
            skipped=tuple(dict(pair for s in samples for pair in s.skipped).items()),
        )


class BatchLoader(DataLoader[Sample]):
    """A DataLoader that begins an epoch when its first batch is asked for, not when it is iterated.

    Lightning iterates the loader before a resumed run has got its place in training back, and before it names the
    epoch; worker processes would have begun the wrong one by then.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            raise UserError(_message(error)) from error

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the place in training is all that the batches depend on. Lightning asks for it in a checkpoint."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do: see :meth:`state_dict`."""


def _message(error: UserError) -> str:
    """The message alone, of an error that a worker process wrapped in its traceback."""
    return str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2].strip()


def _listed(skipped: Sequence[tuple[str, str]], at_most: int = 5) -> str:
    listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:at_most])
    return f"{listed}; and {len(skipped) - at_most} more." if len(skipped) > at_most else f"{listed}."
