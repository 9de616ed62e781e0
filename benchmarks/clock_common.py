"""Lightning callback that measures the CPU time of training, for benchmarks that run `imgrec fit`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytorch_lightning as pl


class TrainingClock(pl.Callback):
    """Timer that writes the CPU seconds of this process to a JSON file at the end of training.

    ``train_cpu_s`` starts with the setup of the data module and excludes validation. It includes decoding images into
    memory, augmentation, steps, logging and checkpoints. ``validate_cpu_s`` is validation with its metrics.
    ``before_cpu_s`` is the time before setup, mostly imports. All threads are counted.

    Args:
        path: Path of the JSON file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._before = 0.0
        self._validating = 0.0
        self._began = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the timer before the data is prepared."""
        if stage == "fit":
            self._before = time.process_time()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pause the timer."""
        self._began = time.process_time()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Resume the timer."""
        self._validating += time.process_time() - self._began

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the measured seconds."""
        seconds = {
            "train_cpu_s": time.process_time() - self._before - self._validating,
            "validate_cpu_s": self._validating,
            "before_cpu_s": self._before,
        }
        Path(self.path).write_text(json.dumps(seconds), encoding="utf-8")
