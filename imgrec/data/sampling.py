"""The order of the samples: a function of (seed, epoch), shared out over the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.utils.data import DistributedSampler

from imgrec.errors import UserError
from imgrec.randomness import position_generator


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


class TrainingOrder(_Sampler):
    """Each epoch's order of the training samples, a function of (seed, epoch), as pairs (position, epoch).

    The epoch travels with the position, so that worker processes that live on know which one it is. Several processes
    take turns: together they make the same batches, of ``world_size`` times the size, whatever their number; what is
    left over when the samples do not divide, fewer than there are processes, is passed over in that epoch.

    Args:
        count: the number of training samples.
        seed: the seed of the order.
        rank: which process this is.
        world_size: the number of processes.
        skip: called when an epoch begins; how many of this process's samples were done already, for a run that
            goes on in the middle of an epoch.

    >>> order = TrainingOrder(4, seed=0)
    >>> order.set_epoch(7)
    >>> sorted(order)
    [(0, 7), (1, 7), (2, 7), (3, 7)]
    """

    def __init__(
        self, count: int, seed: int, rank: int = 0, world_size: int = 1, skip: Callable[[], int] = lambda: 0
    ) -> None:
        if count < world_size:
            raise UserError(f"{count} training images for {world_size} processes: each needs one at least.")
        super().__init__(count, rank, world_size)
        self.seed = seed
        self.skip = skip

    def __len__(self) -> int:
        return self.count // self.num_replicas

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        order = torch.randperm(self.count, generator=position_generator(self.seed, "order", self.epoch))
        own = order[self.rank : len(self) * self.num_replicas : self.num_replicas]
        return iter([(position, self.epoch) for position in own[self.skip() :].tolist()])

    def set_epoch(self, epoch: int) -> None:
        """Take the order of this epoch, from 0, from the next iteration on. Lightning calls it."""
        self.epoch = epoch


class EvaluationOrder(_Sampler):
    """The positions of this process, in order: every sample once over all processes, and none twice.

    >>> [list(EvaluationOrder(5, rank, 2)) for rank in range(2)]
    [[0, 2, 4], [1, 3]]
    """

    def __init__(self, count: int, rank: int = 0, world_size: int = 1) -> None:
        super().__init__(count, rank, world_size)

    def __len__(self) -> int:
        return len(range(self.rank, self.count, self.num_replicas))

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.rank, self.count, self.num_replicas))
