"""What an epoch keeps: the logits of every evaluated image, each image once, and the means of training."""

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
class EpochPredictions:
    """The predictions of a whole epoch, ordered by id.

    Shapes: ``targets`` int64 ``(samples,)``; ``logits`` float32 ``(samples, num_classes)``; both on the CPU.
    ``skipped`` names the images that could not be read.
    """

    ids: tuple[str, ...]
    targets: Tensor
    logits: Tensor
    skipped: tuple[str, ...] = ()

    def check(self, split: str, expected: int | None = None) -> None:
        """Refuse predictions that do not count every image exactly once.

        Args:
            split: its name, for the message.
            expected: the number of images in the split, where all of it was evaluated.

        Raises:
            UserError: an image was evaluated twice, or was not.
        """
        twice = [name for name, after in zip(self.ids, self.ids[1:], strict=False) if name == after]
        if twice:
            raise UserError(
                f"{split}: {len(set(twice))} images were evaluated more than once, {twice[0]} among them. Each has to "
                "count once: with several processes a data module of one's own shares its images out, and pads nothing "
                "(Lightning's trainer.use_distributed_sampler does)."
            )
        if expected is not None and len(self.ids) + len(self.skipped) != expected:
            raise UserError(
                f"{split}: {len(self.ids)} predictions and {len(self.skipped)} images that cannot be read, for a split "
                f"of {expected} images."
            )


class EpochBuffer:
    """Collects the logits of an epoch on the device, and hands them over once, gathered from every process.

    What is gathered goes batch by batch into its place: beside the predictions of the epoch there is never more in
    memory than what each process kept of its own share, and one batch of every process.
    """

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._skipped: dict[str, None] = {}
        self._targets: list[Tensor] = []
        self._logits: list[Tensor] = []

    def add(self, ids: Sequence[str], targets: Tensor, logits: Tensor) -> None:
        """Keep one batch."""
        self._ids.extend(ids)
        self._targets.append(targets.detach())
        self._logits.append(logits.detach().float())

    def skip(self, ids: Sequence[str]) -> None:
        """Note images that belonged to the epoch and could not be read."""
        self._skipped |= dict.fromkeys(ids)

    def take(self) -> EpochPredictions | None:
        """The epoch's predictions, on the first process; ``None`` on the others, or where there were none at all.

        Empties the buffer. Every process has to call it.
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
        return EpochPredictions(tuple(name for name, *_ in order), found[0], found[1], unread)


class RunningMeans:
    """Means over the samples of an epoch, summed on the device, read once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}
        self._epoch = -1
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, nothing is taken in: a second pass over the same images."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def enter(self, epoch: int) -> None:
        """What is added from now on belongs to this epoch: sums of another one are dropped."""
        if epoch != self._epoch:
            self._sums, self._counts, self._epoch = {}, {}, epoch

    def add(self, name: str, mean: Tensor, count: int) -> None:
        """Take in the mean over ``count`` samples."""
        if self._paused:
            return
        value = mean.detach() * count
        self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._counts[name] = self._counts.get(name, 0) + count

    def take(self) -> dict[str, float]:
        """The means by name over the samples of all processes, the same on each; starts anew.

        Sums and counts are added up in the order of the processes, not means averaged: a process that has seen fewer
        samples, or none under a name, counts for that much less. Every process has to call it.
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
        """The sums so far, for a checkpoint in the middle of an epoch. Every process has to call it."""
        own = {name: (total.cpu(), self._counts[name]) for name, total in self._sums.items()}
        return {"epoch": self._epoch, "sums": gather_objects(own, everywhere=True)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; with another number of processes, the first takes over what all had summed."""
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
