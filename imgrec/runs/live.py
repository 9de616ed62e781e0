"""Progress of a run during training: position, speed and remaining time."""

from __future__ import annotations

import csv
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imgrec.errors import UserError
from imgrec.metrics.names import mode_of
from imgrec.runs.folder import CONFIG, RunFolder
from imgrec.runs.liveness import is_alive, status_of
from imgrec.runs.system import SECONDS

_WINDOW = 5  # epochs for the estimate of the speed


@dataclass
class LiveCurve:
    """Recorded values of one metric, with their steps and epochs."""

    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


class MetricsTail:
    """Incremental reader of metrics.csv: each :meth:`read` adds the lines that were completed since the last one.

    A missing or empty file and an incomplete header have no lines. A file that was rewritten with more columns is read
    from its start.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curves: dict[str, LiveCurve] = {}
        self.last: tuple[int, int] | None = None
        self._names: list[str] = []
        self._offset = 0
        self._file: tuple[int, int] | None = None

    def read(self) -> bool:
        """Read new lines and return True if there are any."""
        try:
            with self.path.open("rb") as file:
                status = self.path.stat()
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._offset:
                    self.__init__(self.path)  # type: ignore[misc]
                    self._file = (status.st_dev, status.st_ino)
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return False
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        for row in csv.reader(complete.decode("utf-8", "replace").splitlines()):
            self._add(row)
        return bool(complete)

    def _add(self, row: list[str]) -> None:
        if not self._names:
            self._names = row
            return
        if len(row) != len(self._names):
            return
        try:
            step, epoch = int(row[0]), int(row[1])
            values = {name: float(cell) for name, cell in zip(self._names[2:], row[2:], strict=True) if cell}
        except ValueError:
            return
        self.last = (step, epoch)
        for name, value in values.items():
            curve = self.curves.setdefault(name, LiveCurve())
            curve.steps.append(step)
            curve.epochs.append(epoch)
            curve.values.append(value)


@dataclass(frozen=True)
class Progress:
    """Progress of a run. A value is ``None`` if it is not available yet.

    Attributes:
        epochs_done: Number of completed epochs.
        epoch: Current epoch, counted from 0.
        step: Number of optimizer steps.
        max_epochs: Number of epochs of the training.
        max_steps: Number of optimizer steps of the training.
        steps_per_second: Optimizer steps per second, including validation.
        images_per_second: Training images per second.
        data_wait: Fraction of the time spent waiting for data.
        peak_memory_gib: Peak memory in GiB.
        seconds: Seconds since the start.
        seconds_left: Estimated remaining seconds.
    """

    epochs_done: int
    epoch: int
    step: int
    max_epochs: int | None
    max_steps: int | None
    steps_per_second: float | None
    images_per_second: float | None
    data_wait: float | None
    peak_memory_gib: float | None
    seconds: float | None
    seconds_left: float | None

    @property
    def fraction(self) -> float | None:
        """Completed fraction of training."""
        return None if not self.max_steps else min(self.step / self.max_steps, 1.0)


class LiveRun:
    """Run folder of a training that may be in progress.

    Args:
        folder: Run folder. Its config determines the length of training, its metrics.csv the progress.

    Raises:
        UserError: If it is no run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder)
        self.tail = MetricsTail(self.run.metrics_file)

    @property
    def status(self) -> str:
        """Status of the run. See :func:`imgrec.runs.liveness.status_of`."""
        try:
            return status_of(self.run)
        except UserError:
            return "starting"

    @property
    def has_ended(self) -> bool:
        """True if no process trains or evaluates the run."""
        return self.status not in ("starting", "running") and not is_alive(self.run)

    def seconds_since_update(self) -> float:
        """Return the seconds since the last change of metrics.csv or the config."""
        written = [path.stat().st_mtime for path in (self.tail.path, self.run.path / CONFIG) if path.exists()]
        return max(time.time() - max(written), 0.0) if written else 0.0

    def best(self, metric: str = "val/acc") -> tuple[float, int] | None:
        """Return the best value of a metric and its epoch, counted from 0, or ``None`` without a value."""
        curve = self.tail.curves.get(metric)
        if curve is None or not np.isfinite(curve.values).any():
            return None
        values = np.asarray(curve.values)
        index = int(np.nanargmin(values) if mode_of(metric) == "min" else np.nanargmax(values))
        return float(values[index]), curve.epochs[index]

    def progress(self) -> Progress:
        """Return the progress of training."""
        curves = self.tail.curves
        trainer: dict[str, Any] = self.run.config.get("trainer") or {}
        ends = curves.get("train/loss", LiveCurve())
        step, epoch = self.tail.last or (0, 0)
        trained = [curve for name, curve in curves.items() if not name.startswith("test/")]
        step = max((curve.steps[-1] + 1 for curve in trained), default=0)
        per_epoch = (ends.steps[-1] + 1) / (ends.epochs[-1] + 1) if len(ends) else None
        max_epochs = _limit(trainer.get("max_epochs"))
        limits = [_limit(trainer.get("max_steps"))]
        if max_epochs is not None and per_epoch is not None:
            limits.append(round(max_epochs * per_epoch))
        limits_set = [limit for limit in limits if limit is not None]
        max_steps = min(limits_set) if limits_set else None
        rate = _rate(curves, per_epoch)
        left = max(max_steps - step, 0) / rate if max_steps and rate else None
        return Progress(
            epochs_done=len(set(ends.epochs)),
            epoch=min(epoch, max_epochs - 1) if max_epochs else epoch,
            step=min(step, max_steps) if max_steps else step,
            max_epochs=max_epochs,
            max_steps=max_steps,
            steps_per_second=rate,
            images_per_second=_last(curves, "system/images_per_second"),
            data_wait=_last(curves, "system/data_wait"),
            peak_memory_gib=_last(curves, "system/peak_memory_gib"),
            seconds=_last(curves, SECONDS),
            seconds_left=left,
        )


def _limit(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 and math.isfinite(value) else None


def _last(curves: dict[str, LiveCurve], name: str) -> float | None:
    return curves[name].values[-1] if name in curves else None


def _rate(curves: dict[str, LiveCurve], per_epoch: float | None) -> float | None:
    """Return steps per second including validation: the median of the last epochs, or the mean of the first two."""
    clock = curves.get(SECONDS, LiveCurve())
    seconds = dict(zip(clock.steps, clock.values, strict=True))
    ends = [seconds[step] for step in curves.get("train/loss", LiveCurve()).steps if step in seconds]
    if per_epoch and len(ends) >= 2:
        span = float(np.median(np.diff(ends[-1 - _WINDOW :])))
        return per_epoch / span if span > 0 else None
    if len(clock) < 2 or clock.values[-1] <= clock.values[0]:
        return None
    return (clock.steps[-1] - clock.steps[0]) / (clock.values[-1] - clock.values[0])
