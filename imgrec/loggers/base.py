"""Loggers beside metrics.csv that want to know of the run folder, and what they are told."""

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
"""Gives the images of sample ids: uint8 ``(height, width, channels)``, ``None`` where there is none."""


class RunMirror:
    """What a Lightning logger has beside its own methods in order to mirror a run folder; the run recorder calls it.

    ``muted`` is set while metrics are computed again that stand in the log already.
    """

    muted = False

    def begin_run(self, folder: Path) -> None:
        """The run folder is there, with its config; nothing has been logged yet, or the run goes on."""

    def resume(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """The run goes on; this is what its log says by step: a mirror may not have got all of it before the end."""

    def log_evaluation(self, split: str, predictions: Predictions, images: Images | None) -> None:
        """The best checkpoint said this of each image of ``split``."""

    def close(self) -> None:
        """Nothing will be logged any more."""


def mirrors(trainer: pl.Trainer) -> list[RunMirror]:
    """The trainer's loggers that mirror the run folder."""
    return [logger for logger in trainer.loggers if isinstance(logger, RunMirror)]


def mute_mirrors(trainer: pl.Trainer, muted: bool) -> None:
    """Tell them whether what is computed stands in the log already."""
    for mirror in mirrors(trainer):
        mirror.muted = muted


def begin_mirrors(trainer: pl.Trainer, folder: Path) -> None:
    """Tell them of the run folder."""
    for mirror in mirrors(trainer):
        mirror.begin_run(folder)


def resume_mirrors(trainer: pl.Trainer, folder: Path | None, gathered: Mapping[str, Any]) -> None:
    """Tell them what metrics.csv says before a resumed run goes on.

    Args:
        trainer: whose loggers they are.
        folder: the run folder.
        gathered: the row that is not in the file yet: ``step``, ``epoch`` and ``values``.
    """
    heard = mirrors(trainer)
    if folder is None or not heard or not trainer.is_global_zero:
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
    for mirror in heard:
        mirror.resume(ordered)


def mirror_evaluation(trainer: pl.Trainer, split: str, predictions: Predictions) -> None:
    """Tell them of an evaluation."""
    data = trainer.datamodule  # type: ignore[attr-defined]

    def images(ids: Iterable[str]) -> list[NDArray[np.uint8] | None]:
        return [None if image is None else image.permute(1, 2, 0).numpy() for image in load_reduced(data, ids)]

    for mirror in mirrors(trainer):
        mirror.log_evaluation(split, predictions, images if hasattr(data, "load_images") else None)


def close_mirrors(trainer: pl.Trainer) -> None:
    """The run has ended: let them finish."""
    for mirror in mirrors(trainer):
        mirror.close()
