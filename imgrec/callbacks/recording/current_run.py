"""Where a callback may leave something: the run folder that the recorder made."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from imgrec.callbacks.recording.recorder import RunRecorder


def run_folder(trainer: pl.Trainer) -> Path | None:
    """The folder of the trainer's run, in the process that writes into it; ``None`` in every other one.

    There is none before ``fit`` has begun, without a :class:`RunRecorder`, and under ``fast_dev_run``.
    """
    if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    recorders = (each for each in trainer.callbacks if isinstance(each, RunRecorder))  # type: ignore[attr-defined]
    return next((each.folder for each in recorders), None)
