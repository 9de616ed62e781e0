"""Loggers that write the content of a run folder to another service, in addition to metrics.csv."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray

from imgrec.data.thumbnails import load_reduced
from imgrec.runs.metrics_csv import read_metrics
from imgrec.runs.predictions import Predictions
from imgrec.runs.system import SECONDS

Images = Callable[[Sequence[str]], "list[NDArray[np.uint8] | None]"]
"""Function that returns the images of sample ids: uint8 ``(height, width, channels)``, or None for a missing image."""


class RunLogger:
    """Methods of a logger, in addition to those of Lightning, that the run recorder calls.

    Attributes:
        muted: True while metrics are computed again that are in the log already.
    """

    muted = False

    def begin_run(self, folder: Path) -> None:
        """Start the log of a run folder that contains its config, or resume it."""

    def resume(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Add the rows of metrics.csv, by step, that were not logged before the run was resumed."""

    def log_evaluation(self, split: str, predictions: Predictions, images: Images | None) -> None:
        """Log the predictions of the best checkpoint on ``split``."""

    def close(self) -> None:
        """Finish the log."""


def run_loggers(trainer: pl.Trainer) -> list[RunLogger]:
    """Return the loggers of the trainer that write the content of the run folder."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]


def mute_loggers(trainer: pl.Trainer, muted: bool) -> None:
    """Set ``muted`` of the loggers, while metrics are computed that are in the log already."""
    for each in run_loggers(trainer):
        each.muted = muted


def start_loggers(trainer: pl.Trainer, folder: Path) -> None:
    """Start the loggers in a run folder."""
    for each in run_loggers(trainer):
        each.begin_run(folder)


def resume_loggers(trainer: pl.Trainer, folder: Path | None, gathered: Mapping[str, Any]) -> None:
    """Add the rows of metrics.csv to the loggers before a resumed run continues.

    Args:
        trainer: Trainer with the loggers.
        folder: Run folder.
        gathered: Row that is not in the file yet, with the keys ``step``, ``epoch`` and ``values``.
    """
    loggers = run_loggers(trainer)
    if folder is None or not loggers or not trainer.is_global_zero:
        return
    rows: dict[int, dict[str, float]] = {}
    path = folder / "metrics.csv"
    for name, series in (read_metrics(path) if path.is_file() else {}).items():
        for step, epoch, value in zip(
            series.steps.tolist(), series.epochs.tolist(), series.values.tolist(), strict=True
        ):
            rows.setdefault(step, {"epoch": epoch})[name] = value
    if gathered["values"]:
        rows.setdefault(gathered["step"], {"epoch": gathered["epoch"]}).update(gathered["values"])
    ordered = {step: {name: value for name, value in rows[step].items() if name != SECONDS} for step in sorted(rows)}
    for each in loggers:
        each.resume(ordered)


def log_evaluation_to_loggers(trainer: pl.Trainer, split: str, predictions: Predictions) -> None:
    """Log an evaluation to the loggers."""
    data = trainer.datamodule  # type: ignore[attr-defined]

    def images(ids: Iterable[str]) -> list[NDArray[np.uint8] | None]:
        return [None if image is None else image.permute(1, 2, 0).numpy() for image in load_reduced(data, ids)]

    for each in run_loggers(trainer):
        each.log_evaluation(split, predictions, images if hasattr(data, "load_images") else None)


def close_loggers(trainer: pl.Trainer) -> None:
    """Finish the loggers at the end of the run."""
    for each in run_loggers(trainer):
        each.close()
