"""What an epoch keeps: the logits of every evaluated image, each image once, and the means of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class EpochPredictions:
    """The predictions of a whole epoch, ordered by id.

    Shapes: ``targets`` int64 ``(samples,)``; ``logits`` float32 ``(samples, num_classes)``; both on the CPU.
    """

    ids: tuple[str, ...]
    targets: Tensor
    logits: Tensor


class EpochBuffer:
    """Collects the logits of an epoch on the device, and hands them over once, gathered from every process."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._targets: list[Tensor] = []
        self._logits: list[Tensor] = []

    def add(self, ids: Sequence[str], targets: Tensor, logits: Tensor) -> None:
        """Keep one batch."""
        self._ids.extend(ids)
        self._targets.append(targets.detach())
        self._logits.append(logits.detach().float())

    def take(self) -> EpochPredictions | None:
        """The epoch's predictions, the same on every process; ``None`` where there were none. Empties the buffer."""
        mine = (
            self._ids,
            torch.cat(self._targets).cpu() if self._targets else None,
            torch.cat(self._logits).cpu() if self._logits else None,
        )
        self.__init__()  # type: ignore[misc]
        parts = [mine]
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            parts = [mine] * distributed.get_world_size()
            distributed.all_gather_object(parts, mine)
        ids = [i for part in parts for i in part[0]]
        if not ids:
            return None
        order = sorted(range(len(ids)), key=ids.__getitem__)
        targets = torch.cat([part[1] for part in parts if part[1] is not None])
        logits = torch.cat([part[2] for part in parts if part[2] is not None])
        return EpochPredictions(tuple(ids[i] for i in order), targets[order], logits[order])


class RunningMeans:
    """Means over the samples of an epoch, summed on the device, read once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, name: str, mean: Tensor, count: int) -> None:
        """Take in the mean over ``count`` samples."""
        value = mean.detach() * count
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, Tensor]:
        """The means by name; starts anew."""
        means = {name: total / max(self._counts[name], 1) for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means
