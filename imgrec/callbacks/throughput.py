"""Throughput of a few optimizer steps."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch

from imgrec.callbacks.min_training import remove_limits


class StepMeter(pl.Callback):
    """Callback that times optimizer steps, ends the training after these, and measures the peak memory of a GPU.

    Args:
        steps: Number of optimizer steps. The first one prepares kernels and the state of the optimizer, and is not
            timed.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.gpu_bytes: int | None = None
        self._ends: list[float] = []
        self._images: list[int] = []

    @property
    def images_per_second(self) -> float:
        """Median over the batches, without those of the first step."""
        rates = sorted(
            images / (end - begun)
            for images, begun, end in zip(self._images[1:], self._ends, self._ends[1:], strict=False)
        )
        return rates[len(rates) // 2] if rates else 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the limits of the training."""
        remove_limits(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the time after the device has finished."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        if trainer.global_step:
            self._ends.append(time.perf_counter())
            self._images.append(len(batch))
        if trainer.global_step >= self.steps:
            trainer.should_stop = True
