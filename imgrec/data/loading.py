"""Batches of a source: reading, transforms, and the replacement of unreadable images."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imgrec.augment import Pipeline
from imgrec.data.cache.plan import is_identity
from imgrec.data.decoding.image import BadImage, to_channels
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.data.samplers.order import BLANK
from imgrec.data.sources.base import Source
from imgrec.data.workers import end_with_program, outlive_signals
from imgrec.errors import UserError
from imgrec.types import Batch, sample_keys
from imgrec.utils.seeding import position_generator, position_seed

Position = tuple[int, int] | int
"""Position in the split, optionally with the epoch."""


class Images(Protocol):
    """Provider of the pixels of rows: the source, or a cache of it."""

    def load(self, index: int) -> Tensor:
        """Return the image of a row, as :meth:`Source.load` does."""

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the images of several rows, as :meth:`Source.gather` does."""


class _Rows(Dataset[Batch]):
    """Base class of datasets of whole batches: rows of a source and their transforms.

    A DataLoader requests a whole batch. A batch is one copy from memory if all images are in memory in the right size
    and no transform changes them. Otherwise it is read image by image.

    Args:
        source: Table of images.
        rows: Rows of the source, in their order.
        pipeline: Transforms of single images.
        channels: Channels of the images in a batch.
        seed: Seed of the transforms.
        images: Provider of the pixels before ``pipeline``. Defaults to the source.
    """

    def __init__(
        self,
        source: Source,
        rows: NDArray[np.int64],
        pipeline: Pipeline,
        channels: Literal[1, 3],
        seed: int,
        images: Images | None = None,
    ) -> None:
        self.source = source
        self.rows = rows
        self.pipeline = pipeline
        self.channels: Literal[1, 3] = channels
        self.seed = seed
        self.images: Images = source if images is None else images
        self.keys = sample_keys(source.ids[row] for row in rows.tolist())
        self._unchanged = is_identity(pipeline)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: Position) -> Batch:
        return self.__getitems__([place])

    def __getitems__(self, places: Sequence[Position]) -> Batch:
        raise NotImplementedError

    @property
    def is_one_copy(self) -> bool:
        """True if the first batch, and therefore nearly every one, is one copy from memory."""
        return self.gather(self.rows[:1]) is not None

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:
        """Return the images of a batch as one copy from memory, or ``None`` if that is not possible."""
        side = self.pipeline.image_size
        images = self.images.gather(rows) if self._unchanged else None
        if images is None or images.shape[-2:] != (side, side):
            return None
        if images.shape[1] == self.channels:
            return images
        if self.channels == 3:
            return images.expand(-1, 3, -1, -1).contiguous()
        return torch.stack([to_channels(image, 1) for image in images])

    def read(self, row: int, *draw: int | str, copy: int = 0) -> Tensor:
        """Return the transformed image of a row. Raise :class:`BadImage` if it cannot be read."""
        name = self.source.ids[row]
        copy_key = (copy,) if copy else ()
        try:
            with decoding():
                image = to_channels(self.images.load(row), self.channels)
                return self.pipeline(image, position_generator(self.seed, *draw, name, *copy_key))
        except UserError as error:
            raise UserError(f"{error} The image: {name}.") from error

    def empty(self, count: int) -> Tensor:
        """Return an uninitialized tensor for the images of a batch."""
        return torch.empty(count, self.channels, self.pipeline.image_size, self.pipeline.image_size, dtype=torch.uint8)

    def batch(
        self,
        images: Tensor,
        positions: Sequence[int] | NDArray[np.int64],
        skipped: Sequence[tuple[str, str]] = (),
        epoch: int = 0,
        copies: NDArray[np.int64] | None = None,
    ) -> Batch:
        """Build the batch of these positions from its images."""
        positions = np.asarray(positions, dtype=np.int64)
        rows = self.rows[positions]
        ids = tuple([self.source.ids[row] for row in rows.tolist()])
        keys = self.keys[torch.from_numpy(positions)]
        if copies is not None:
            for i in np.flatnonzero(copies).tolist():
                keys[i] = position_seed(ids[i], int(copies[i]))
        return Batch(
            images=images,
            targets=torch.from_numpy(self.source.targets[rows]),
            ids=ids,
            skipped=tuple(dict(skipped).items()),
            keys=keys,
            epoch=epoch,
        )


class TrainingSet(_Rows):
    """Training batches by (position, epoch). The draws of a sample are a function of (seed, epoch, id).

    An unreadable image is replaced by the next readable one in the order of the split. The batch keeps its size and
    reports the missing image. A position beyond the split is an additional copy of a sample with independent draws, as
    in :class:`TrainingSampler`.
    """

    def __getitems__(self, places: Sequence[Position]) -> Batch:
        """Return the batch of these positions of one epoch."""
        pairs = [(place, 0) if isinstance(place, int) else place for place in places]
        epoch = pairs[0][1]
        copies, positions = np.divmod(np.asarray([position for position, _ in pairs], dtype=np.int64), len(self))
        whole = self.gather(self.rows[positions])
        if whole is not None:
            return self.batch(whole, positions, epoch=epoch, copies=copies)
        images, skipped = self.empty(len(pairs)), []
        for i, (position, copy) in enumerate(zip(positions.tolist(), copies.tolist(), strict=True)):
            positions[i], images[i], bad = self._next_readable(position, epoch, copy)
            skipped += bad
        return self.batch(images, positions, skipped, epoch, copies)

    def _next_readable(self, position: int, epoch: int, copy: int) -> tuple[int, Tensor, list[tuple[str, str]]]:
        skipped: list[tuple[str, str]] = []
        for step in range(len(self)):
            place = (position + step) % len(self)
            row = int(self.rows[place])
            try:
                return place, self.read(row, epoch, copy=copy), skipped
            except BadImage as error:
                skipped.append((self.source.ids[row], error.reason))
        raise UserError(f"none of the {len(self)} training images can be read: {_listed(skipped)}")


class EvaluationSet(_Rows):
    """Deterministic evaluation batches by position. Unreadable images are left out.

    The batch of :data:`imgrec.data.samplers.order.BLANK` is empty.
    """

    def __getitems__(self, places: Sequence[Position]) -> Batch:
        """Return the batch of these positions."""
        positions = [place if isinstance(place, int) else place[0] for place in places]
        if positions == [BLANK]:
            return self.batch(self.empty(0), [])
        whole = self.gather(self.rows[np.asarray(positions, dtype=np.int64)])
        if whole is not None:
            return self.batch(whole, positions)
        images, skipped = self.empty(len(positions)), []
        readable: list[int] = []
        for position in positions:
            row = int(self.rows[position])
            try:
                images[len(readable)] = self.read(row, "evaluation")
            except BadImage as error:
                skipped.append((self.source.ids[row], error.reason))
            else:
                readable.append(position)
        return self.batch(images[: len(readable)], readable, skipped)


class BatchLoader(DataLoader[Batch]):
    """DataLoader of datasets of whole batches that starts an epoch when its first batch is requested.

    Lightning iterates the loader before it restores the position of a resumed run and before it sets the epoch. Worker
    processes would otherwise start the wrong epoch.
    """

    waited = 0.0
    """Time spent on waiting for batches in all epochs, in seconds."""

    def __init__(self, dataset: _Rows, **options: Any) -> None:
        super().__init__(dataset, collate_fn=return_batch, worker_init_fn=outlive_signals, **options)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            began = time.perf_counter()
            iterator = super().__iter__()
            with end_with_program(iterator):
                for batch in iterator:
                    self.waited += time.perf_counter() - began
                    yield batch
                    began = time.perf_counter()
        except UserError as error:
            raise UserError(_message(error)) from error

    def batch_at(self, epoch: int, index: int) -> Batch:
        """Return the batch at a position of an epoch, read in this process.

        Args:
            epoch: Epoch, from 0. The sampler is set to it.
            index: Index of the batch in the epoch, from 0.
        """
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
        assert self.batch_sampler is not None
        places: Any = next(islice(iter(self.batch_sampler), index, None))
        batch: Batch = self.dataset.__getitems__(places)  # type: ignore[attr-defined]
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return no state, because batches are a function of the position in training. Lightning calls this method."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Ignore the state of :meth:`state_dict`, which is empty."""


def return_batch(batch: Any) -> Any:
    """Return the batch unchanged, because the datasets collate it."""
    return batch


def _message(error: UserError) -> str:
    """Return the message of an error without the traceback of a worker process."""
    return str(error).rpartition(f"{UserError.__module__}.{UserError.__qualname__}: ")[2].strip()


def _listed(skipped: Sequence[tuple[str, str]], at_most: int = 5) -> str:
    listed = "; ".join(f"{name}: {reason}" for name, reason in skipped[:at_most])
    return f"{listed}; and {len(skipped) - at_most} more." if len(skipped) > at_most else f"{listed}."
