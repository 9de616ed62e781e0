"""Samplers of the order of training and evaluation, distributed over the processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DistributedSampler

from imgrec.errors import UserError
from imgrec.utils.seeding import position_generator

_ROUNDING = 1e-6
"""Tolerance within which a sum of fractions is a whole number."""

_ENOUGH = 20
"""Number of samples with fractional repeats from which they alone share the rounding of the length."""


def process_rank() -> tuple[int, int]:
    """Return the rank of this process and the number of processes, ``(0, 1)`` for a single process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class _Sampler(DistributedSampler[int]):
    """Base class of samplers that Lightning does not replace by a distributed sampler."""

    def __init__(self, count: int, rank: int, world_size: int) -> None:
        # the constructor of DistributedSampler is not called: it requires a dataset, and pads
        self.count = count
        self.rank = rank
        self.num_replicas = world_size
        self.epoch = 0


class TrainingSampler(_Sampler):
    """Random order of the training samples, a function of (seed, epoch), as pairs (position, epoch).

    A position contains the epoch for persistent worker processes. Several processes alternate, so that together they
    have the same batches as one process with a batch ``world_size`` times as large. The remainder of the division of
    the samples by the processes is not used in that epoch.

    With ``repeats``, a sample can occur several times in an epoch or not at all. A sample with r repeats occurs
    floor(r) times, and a further time with the probability of the fraction. Each stratum and the whole epoch have the
    expected number of samples, to within one. Copy k of the sample at ``position`` has the position
    ``position + k * count``, so that its augmentation differs.

    The length is the sum of ``repeats``, rounded up, in every epoch, so that schedules and resumed runs count the same
    steps. The rounding is less than one sample. It is distributed over the samples with a fraction if there are at
    least 20 of them, otherwise over all samples.

    Args:
        count: Number of training samples.
        seed: Seed of the order.
        rank: Rank of this process. Defaults to 0.
        world_size: Number of processes. Defaults to 1.
        skip: Function that is called at the start of an epoch and returns the number of samples that this process has
            already completed. Defaults to 0 samples.
        repeats: Expected number of uses of each sample in an epoch, ``(count,)``. Defaults to one.
        strata: Stratum of each sample, such as its class, ``(count,)``. Defaults to a single stratum.

    Source: Madow 1949, "On the theory of systematic sampling, II", Annals of Mathematical Statistics 20,
    10.1214/aoms/1177729988 (the draw with ``repeats``).

    >>> order = TrainingSampler(4, seed=0)
    >>> order.set_epoch(7)
    >>> sorted(order)
    [(0, 7), (1, 7), (2, 7), (3, 7)]
    >>> sorted(place % 4 for place, _ in TrainingSampler(4, seed=0, repeats=np.array([1.0, 0.0, 3.0, 1.0])))
    [0, 2, 2, 2, 3]
    """

    def __init__(
        self,
        count: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        skip: Callable[[], int] = lambda: 0,
        repeats: NDArray[np.float64] | None = None,
        strata: NDArray[np.int64] | None = None,
    ) -> None:
        self.total = count if repeats is None else math.ceil(repeats.sum() - _ROUNDING)
        if self.total < world_size:
            raise UserError(f"expected a training image for each of {world_size} processes, got {self.total}.")
        super().__init__(count, rank, world_size)
        self.seed = seed
        self.skip = skip
        self.repeats = repeats
        self.strata = strata

    def __len__(self) -> int:
        return self.total // self.num_replicas

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        generator = position_generator(self.seed, "order", self.epoch)
        order = torch.randperm(self.total, generator=generator)
        if self.repeats is not None:
            order = self._places(self.repeats, generator)[order]
        own = order[self.rank : len(self) * self.num_replicas : self.num_replicas]
        return iter([(position, self.epoch) for position in own[self.skip() :].tolist()])

    def _places(self, repeats: NDArray[np.float64], generator: torch.Generator) -> Tensor:
        """Return the position of each sample of an epoch, in no particular order."""
        start = torch.rand((), generator=generator).item()
        mixed = torch.randperm(self.count, generator=generator).numpy()
        if self.strata is not None:
            mixed = mixed[np.argsort(self.strata[mixed], kind="stable")]
        whole = np.floor(repeats + _ROUNDING / 1000)
        fractions = np.maximum(repeats - whole, 0)
        further = self.total - int(whole.sum())
        # the length is rounded up, and the difference is distributed in proportion to 1 - fraction
        fractional = fractions > _ROUNDING
        shared = fractional if fractional.sum() >= _ENOUGH else repeats > 0
        room = (1 - fractions) * shared
        fractions += (further - fractions.sum()) * room / max(room.sum(), _ROUNDING)
        # systematic sampling: a further copy at each whole number of the cumulative fractions
        left = np.cumsum(np.maximum(fractions, 0)[mixed])
        steps = np.floor(left / max(left[-1], _ROUNDING) * further + start)
        copies = whole.astype(np.int64)
        copies[mixed] += np.diff(steps, prepend=0).astype(np.int64)
        positions = np.repeat(np.arange(self.count), copies)
        number = np.arange(self.total) - np.repeat(np.cumsum(copies) - copies, copies)
        return torch.from_numpy(positions + number * self.count)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0, of the next iteration. Lightning calls this method."""
        self.epoch = epoch


BLANK = -1
"""Position without an image, for the last batch of a process with one batch fewer than another."""


class EvaluationSampler(_Sampler):
    """Positions of this process. Every sample occurs once over all processes.

    The processes alternate in whole batches, which are those of a single process. The last digits of a prediction
    depend on its batch, and are therefore equal with any number of processes. All processes have the same number of
    batches, because a forward pass can communicate. A missing batch is :data:`BLANK`.

    Args:
        count: Number of samples.
        rank: Rank of this process. Defaults to 0.
        world_size: Number of processes. Defaults to 1.
        batch_size: Samples in a batch. Defaults to 1.

    >>> [list(EvaluationSampler(5, rank, 2, batch_size=2)) for rank in range(2)]
    [[0, 1, 4], [2, 3, -1]]
    """

    def __init__(self, count: int, rank: int = 0, world_size: int = 1, batch_size: int = 1) -> None:
        super().__init__(count, rank, world_size)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return sum(map(len, self._batches()))

    def __iter__(self) -> Iterator[int]:
        return (position for batch in self._batches() for position in batch)

    def _batches(self) -> Iterator[Sequence[int]]:
        size, starts = self.batch_size, range(0, self.count, self.batch_size)
        for first in range(0, len(starts), self.num_replicas):
            at = first + self.rank
            yield range(starts[at], min(starts[at] + size, self.count)) if at < len(starts) else (BLANK,)
