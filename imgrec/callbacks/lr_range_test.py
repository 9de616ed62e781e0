"""The learning-rate range test within a training: each optimizer step at a higher rate than the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from imgrec.callbacks.min_training import remove_limits
from imgrec.errors import UserError
from imgrec.optim.lr_range_test import Diverged, RangeTest
from imgrec.types import Batch


class LearningRateRange(pl.Callback):
    """Trains each optimizer step at the next of some learning rates, and stops after the last or where it diverges.

    The schedule is left out. Parameter groups keep the ratios of their rates. How long training was to be is no end,
    but what the progress of training decides, ramps say, goes by it.

    Args:
        rates: those of the optimizer as its spec has it, rising.
        base: the rate that the spec has now; ``None`` takes that of the first parameter group.
        factor: how many times its least mean the loss may be.

    Raises:
        UserError: at the start of training, where there is not one optimizer with one rate to vary.
    """

    def __init__(self, rates: Sequence[float], base: float | None = None, factor: float = 4.0) -> None:
        self.rates = rates
        self.base = base
        self._diverged = Diverged(factor)
        self._ended = False
        self._losses: list[float] = []
        self._parts: list[tuple[float, int]] = []
        self._ratios: list[float] = []

    @property
    def result(self) -> RangeTest:
        """What was seen."""
        return RangeTest(tuple(self.rates[: len(self._losses)]), tuple(self._losses), self._ended)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the place of the schedule, and of the end of training."""
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise UserError(f"a range test varies one optimizer, and {type(pl_module).__name__} steps its own way")
        groups = trainer.optimizers[0].param_groups
        given = [float(group.get("initial_lr", group.get("lr", 0.0))) for group in groups]
        base = self.base or given[0]
        if not base or not any(given):
            raise UserError("a range test multiplies the optimizer's learning rate, and that is 0")
        self._ratios = [rate / base for rate in given]
        trainer.strategy.lr_scheduler_configs = []
        remove_limits(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the rate of the optimizer step that this batch belongs to."""
        rate = self.rates[len(self._losses)]
        for group, ratio in zip(trainer.optimizers[0].param_groups, self._ratios, strict=True):
            group["lr"] = ratio * rate

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss before the optimizer step that just ended, the mean over the samples that it accumulated."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        samples = len(batch) if isinstance(batch, Batch) else 1
        self._parts.append((float(loss) * trainer.accumulate_grad_batches, samples))  # Lightning has divided it
        if trainer.global_step <= len(self._losses):
            return
        mean = sum(loss * samples for loss, samples in self._parts) / sum(samples for _, samples in self._parts)
        self._parts = []
        self._ended = self._diverged.update(mean)
        if mean == mean and abs(mean) != float("inf"):
            self._losses.append(mean)
        trainer.should_stop = self._ended or len(self._losses) == len(self.rates)
