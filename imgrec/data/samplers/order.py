"""The order of the samples: a function of (seed, epoch), shared out over the processes."""

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
"""Sums of fractions that miss a whole number by less are that number."""

_ENOUGH = 20
"""Number of samples with fractional repeats that share the rounding of the length alone."""


def process_rank() -> tuple[int, int]:
    """The rank of this process and the number of processes: ``(0, 1)`` where there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


class _Sampler(DistributedSampler[int]):
    """A sampler that Lightning takes for one that shares out the samples already, whatever its flags say."""

    def __init__(self, count: int, rank: int, world_size: int) -> None:
        # the constructor of DistributedSampler is not called: it wants a dataset, and pads what it shares out
        self.count = count
        self.rank = rank
        self.num_replicas = world_size
        self.epoch = 0


class TrainingSampler(_Sampler):
    """Each epoch's order of the training samples, a function of (seed, epoch), as pairs (position, epoch).

    The epoch travels with the position, so that worker processes that live on know which one it is. Several processes
    take turns: together they make the same batches, of ``world_size`` times the size, whatever their number; what is
    left over when the samples do not divide, fewer than there are processes, is passed over in that epoch.

    With ``repeats`` a sample may come several times in an epoch, or not at all. A sample that is expected r times
    comes floor(r) times, and once more with the probability of the fraction. Each stratum, and the whole, has as many
    samples as expected, to within one. The k-th further copy of the sample at ``position`` has the place
    ``position + k * count``, so that it can be told from the first and be augmented in another way.

    The length is the sum of ``repeats``, rounded up, and the same in every epoch, so that schedules and resumed runs
    count the same steps. The rounding is less than one sample. It is shared by the samples with a fraction, if there
    are at least 20 of them, otherwise by all samples, in proportion to what each lacks to one further copy.

    Args:
        count: the number of training samples.
        seed: the seed of the order.
        rank: which process this is.
        world_size: the number of processes.
        skip: called when an epoch begins; how many of this process's samples were done already, for a run that
            goes on in the middle of an epoch.
        repeats: how often each sample is expected in an epoch, ``(count,)``; by default once.
        strata: the stratum of each sample, its class say, ``(count,)``; by default all are in one.

    Source, of the draw with ``repeats``: Madow 1949, "On the theory of systematic sampling, II", Annals of
    Mathematical Statistics 20, 10.1214/aoms/1177729988.

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
            raise UserError(f"{self.total} training images for {world_size} processes: each needs one at least.")
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
        """The place of each sample of an epoch, in no particular order."""
        start = torch.rand((), generator=generator).item()
        mixed = torch.randperm(self.count, generator=generator).numpy()
        if self.strata is not None:
            mixed = mixed[np.argsort(self.strata[mixed], kind="stable")]
        whole = np.floor(repeats + _ROUNDING / 1000)
        fractions = np.maximum(repeats - whole, 0)
        further = self.total - int(whole.sum())
        # the length is rounded up: the difference is shared in proportion to what each sample lacks to a further copy
        fractional = fractions > _ROUNDING
        shared = fractional if fractional.sum() >= _ENOUGH else repeats > 0
        room = (1 - fractions) * shared
        fractions += (further - fractions.sum()) * room / max(room.sum(), _ROUNDING)
        # along the samples, one further copy wherever the sum of the fractions passes another whole number
        left = np.cumsum(np.maximum(fractions, 0)[mixed])
        steps = np.floor(left / max(left[-1], _ROUNDING) * further + start)
        copies = whole.astype(np.int64)
        copies[mixed] += np.diff(steps, prepend=0).astype(np.int64)
        positions = np.repeat(np.arange(self.count), copies)
        number = np.arange(self.total) - np.repeat(np.cumsum(copies) - copies, copies)
        return torch.from_numpy(positions + number * self.count)

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch, from 0, from the next iteration on. Lightning calls it."""
        self.epoch = epoch


BLANK = -1
"""A position without an image: it fills the last batch of a process that has one batch fewer than another."""


class EvaluationSampler(_Sampler):
    """The positions of this process: every sample once over all processes, and none twice.

    The processes take whole batches in turn, those that one process alone would make. A prediction depends, in its
    last digits, on the batch that it was computed in; so it is the same with any number of processes. All processes
    have the same number of batches, because a forward pass may have something to exchange: where one would lack a
    batch it gets :data:`BLANK`.

    Args:
        count: the number of samples.
        rank: which process this is.
        world_size: the number of processes.
        batch_size: samples in a batch.

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
