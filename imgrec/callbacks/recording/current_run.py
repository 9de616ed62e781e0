"""Run folder of a trainer."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from imgrec.callbacks.recording.recorder import RunRecorder


def run_folder(trainer: pl.Trainer) -> Path | None:
    """Return the run folder in the process that writes to it, and None in every other process.

    It is None before ``fit`` starts, without a :class:`RunRecorder`, and with ``fast_dev_run``.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    recorders = (each for each in trainer.callbacks if isinstance(each, RunRecorder))  # type: ignore[attr-defined]
    return next((each.folder for each in recorders), None)
