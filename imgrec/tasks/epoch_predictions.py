"""Predictions of an evaluated epoch and running means of a training epoch, over all processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from imgrec.data.samplers.order import process_rank
from imgrec.errors import UserError
from imgrec.tasks.collectives import gather_objects, gather_rounds, process_count


@dataclass(frozen=True)
class PredictionSet:
    """Predictions of one epoch, sorted by id.

    Args:
        ids: Ids of the samples.
        targets: Class indices, int64 ``(samples,)``, on the CPU.
        logits: Logits, float32 ``(samples, num_classes)``, on the CPU.
        skipped: Ids of images that could not be read. Defaults to none.
    """

    ids: tuple[str, ...]
    targets: Tensor
    logits: Tensor
    skipped: tuple[str, ...] = ()

    def check(self, split: str, expected: int | None = None) -> None:
        """Check that every image was evaluated exactly once.

        Args:
            split: Name of the split in the message.
            expected: Number of images of the split. Defaults to no check of the number.

        Raises:
            UserError: If an image was evaluated more than once or not at all.
        """
        twice = [name for name, after in zip(self.ids, self.ids[1:], strict=False) if name == after]
        if twice:
            raise UserError(
                f"{split}: expected one prediction per image, got several for {len(set(twice))} images, for example "
                f"{twice[0]}. With several processes, a custom data module must distribute its images without padding. "
                "The sampler of trainer.use_distributed_sampler pads."
            )
        if expected is not None and len(self.ids) + len(self.skipped) != expected:
            raise UserError(
                f"{split}: expected {expected} images, got {len(self.ids)} predictions and {len(self.skipped)} images "
                "that cannot be read."
            )


class EpochBuffer:
    """Buffer of the logits of an epoch on the device, which are gathered once from all processes.

    They are gathered batch by batch. The peak memory of the first process is the predictions of the epoch, its own
    share, and one batch per process.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._skipped: dict[str, None] = {}
        self._targets: list[Tensor] = []
        self._logits: list[Tensor] = []

    def add(self, ids: Sequence[str], targets: Tensor, logits: Tensor) -> None:
        """Store the predictions of one batch."""
        self._ids.extend(ids)
        self._targets.append(targets.detach())
        self._logits.append(logits.detach().float())

    def skip(self, ids: Sequence[str]) -> None:
        """Store the ids of images of the epoch that could not be read."""
        self._skipped |= dict.fromkeys(ids)

    def gather(self) -> PredictionSet | None:
        """Gather the predictions of the epoch and empty the buffer. Every process must call it.

        Returns:
            Predictions on the first process. ``None`` on the others, and without any prediction.
        """
        own, skipped, targets, logits = self._ids, list(self._skipped), self._targets, self._logits
        self.__init__()  # type: ignore[misc]
        everyone = gather_objects((own, skipped))
        names = [ids for ids, _ in everyone]
        order = sorted((name, rank, i) for rank, ids in enumerate(names) for i, name in enumerate(ids))
        places = [torch.empty(len(ids), dtype=torch.int64) for ids in names]
        for place, (_, rank, i) in enumerate(order):
            places[rank][i] = place
        found = [gather_rounds(parts, places) for parts in (targets, logits)]
        if not order or found[0] is None or found[1] is None:
            return None
        unread = tuple(name for _, ids in everyone for name in ids)
        return PredictionSet(tuple(name for name, *_ in order), found[0], found[1], unread)


class RunningMeans:
    """Means over the samples of an epoch. Sums stay on the device until they are gathered."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._epoch = -1
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Ignore added values in this context, for a second pass over the same images."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def start_epoch(self, epoch: int) -> None:
        """Discard the sums if they are of another epoch."""
        if epoch != self._epoch:
            self._sums, self._counts, self._epoch = {}, {}, epoch

    def add(self, name: str, mean: Tensor, count: int) -> None:
        """Add a mean over ``count`` samples."""
        if self._paused:
            return
        value = mean.detach() * count
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + count

    def gather(self) -> dict[str, float]:
        """Return the means by name over the samples of all processes, and reset the sums. Every process must call it.

        Sums and counts are added in the order of the ranks. Each process is therefore weighted by its number of
        samples, also if it has none for a name.
        """
        values = torch.stack([*self._sums.values()]).tolist() if self._sums else []
        own = {name: (total, self._counts[name]) for name, total in zip(self._sums, values, strict=True)}
        self._sums, self._counts = {}, {}
        everyone = gather_objects(own, everywhere=True) if process_count() > 1 else [own]
        sums: dict[str, tuple[float, int]] = {}
        for part in everyone:
            for name, (total, count) in part.items():
                before = sums.get(name, (0.0, 0))
                sums[name] = (before[0] + total, before[1] + count)
        return {name: total / max(count, 1) for name, (total, count) in sums.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the sums of the epoch for a checkpoint. Every process must call it."""
        own = {name: (total.cpu(), self._counts[name]) for name, total in self._sums.items()}
        return {"epoch": self._epoch, "sums": gather_objects(own, everywhere=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the result of :meth:`state_dict`. If the number of processes changed, the first one loads all sums."""
        rank, count = process_rank()
        parts = state["sums"] if rank == 0 else []
        if len(state["sums"]) == count:
            parts = state["sums"][rank : rank + 1]
        self._epoch = state["epoch"]
        self._sums, self._counts = {}, {}
        for part in parts:
            for name, (total, samples) in part.items():
                self._sums[name] = self._sums[name] + total if name in self._sums else total
                self._counts[name] = self._counts.get(name, 0) + samples
