"""A Lightning callback that counts what training costs, for benchmarks that run `imgrec fit` as anybody would."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytorch_lightning as pl


class TrainingClock(pl.Callback):
    """Writes the CPU seconds of this process to a JSON file when training ends.

    ``train_cpu_s``: from the moment the data module is set up to the end of training, without validation: decoding the
    images into memory, augmentation, steps, logging, checkpoints. ``validate_cpu_s``: validation, metrics included.
    ``before_cpu_s``: everything before, which is importing, mostly. All threads count.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._before = 0.0
        self._validating = 0.0
        self._began = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Training begins here, with the preparation of its data."""
        if stage == "fit":
            self._before = time.process_time()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._began = time.process_time()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let it run again."""
        self._validating += time.process_time() - self._began

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what it says."""
        found = {
            "train_cpu_s": time.process_time() - self._before - self._validating,
            "validate_cpu_s": self._validating,
            "before_cpu_s": self._before,
        }
        Path(self.path).write_text(json.dumps(found), encoding="utf-8")
