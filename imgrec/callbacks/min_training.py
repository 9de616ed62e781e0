"""The shortest training that a trainer accepts: ``min_epochs`` and ``min_steps``."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


def has_met_minimum(trainer: pl.Trainer) -> bool:
    """Return True if ``trainer.min_epochs`` and ``trainer.min_steps`` are reached, the current batch included.

    Lightning keeps ``trainer.should_stop`` once it is set, and stops at the minimum for a reason that may be out of
    date by then. A callback that stops training therefore sets it only if this returns True. An epoch whose last batch
    is done counts, although Lightning counts it only after validation.
    """
    loop: Any = trainer.fit_loop
    epochs = loop.epoch_progress.current
    done = epochs.processed + int(epochs.processed < epochs.started and loop.epoch_loop.batch_progress.is_last_batch)
    return done >= (loop.min_epochs or 0) and trainer.global_step >= (loop.min_steps or 0)


def remove_limits(trainer: pl.Trainer) -> None:
    """Remove the minimum and the maximum length of a training, which then ends by ``trainer.should_stop`` only."""
    loop: Any = trainer.fit_loop
    loop.max_epochs, loop.epoch_loop.max_steps = -1, -1
    loop.min_epochs, loop.epoch_loop.min_steps = None, None
