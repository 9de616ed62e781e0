"""Learning-rate range test in a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl

from imgrec.callbacks.min_training import remove_limits
from imgrec.errors import UserError
from imgrec.optim.lr_range_test import Diverged, RangeTest
from imgrec.types import Batch


class LearningRateRange(pl.Callback):
    """Callback that increases the learning rate at every optimizer step, until the loss diverges.

    The schedule is disabled. Parameter groups keep the ratios of their rates. The length of the training has no effect,
    except on ramps.

    Args:
        rates: Increasing learning rates of the optimizer spec.
        base: Learning rate in the spec. Defaults to that of the first parameter group.
        factor: Ratio of the loss to its lowest mean at which it diverges. Defaults to 4.

    Raises:
        UserError: If there is not exactly one optimizer with a learning rate above 0.
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
        """Rates and losses of the test."""
        return RangeTest(tuple(self.rates[: len(self._losses)]), tuple(self._losses), self._ended)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Disable the schedule and the length of the training."""
        if len(trainer.optimizers) != 1 or not pl_module.automatic_optimization:
            raise UserError(
                f"range test: expected one optimizer with automatic optimization, got {type(pl_module).__name__}."
            )
        groups = trainer.optimizers[0].param_groups
        given = [float(group.get("initial_lr", group.get("lr", 0.0))) for group in groups]
        base = self.base or given[0]
        if not base or not any(given):
            raise UserError("range test: expected a learning rate above 0, got 0.")
        self._ratios = [rate / base for rate in given]
        trainer.strategy.lr_scheduler_configs = []
        remove_limits(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the learning rate of the optimizer step of this batch."""
        rate = self.rates[len(self._losses)]
        for group, ratio in zip(trainer.optimizers[0].param_groups, self._ratios, strict=True):
            group["lr"] = ratio * rate

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the loss before the optimizer step, as the mean over its samples."""
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
