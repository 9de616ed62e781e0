"""Seeds of training steps that depend on the position only."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from imgrec.tasks.callback import Callback
from imgrec.utils.seeding import run_seed, seed_defaults


class PositionalSeeding(Callback):
    """Callback that seeds the default generators of torch at every training batch, by (seed, epoch, batch, rank).

    Dropout, stochastic depth and every other draw on the device are therefore equal after a resume.
    """

    runs_in_short_runs = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed the generators by position."""
        seed_defaults(run_seed(), "step", trainer.current_epoch, batch_idx, trainer.global_rank)
