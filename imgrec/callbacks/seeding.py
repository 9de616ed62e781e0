"""What a training step draws depends on where it stands, not on what was drawn before."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from imgrec.tasks.callback import Callback
from imgrec.utils.seeding import run_seed, seed_defaults


class PositionalSeeding(Callback):
    """Seeds torch's default generators at the start of every training batch, by (seed, epoch, batch, rank).

    Dropout, stochastic depth and every draw on the device are then those of an uninterrupted run after a resume.
    """

    runs_in_short_runs = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed by position."""
        seed_defaults(run_seed(), "step", trainer.current_epoch, batch_idx, trainer.global_rank)
