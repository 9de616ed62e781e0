"""A run that is being trained, seen from outside: how far it is, how fast, and when it will be done."""

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

_WINDOW = 5  # epochs that a rate is taken over


@dataclass
class Curve:
    """The values of one metric so far, and the steps and epochs that they belong to."""

    steps: list[int] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.values)


class MetricsTail:
    """Follows a metrics.csv: each :meth:`read` takes in the lines that were finished since.

    A file that is not there, empty, or in the middle of its header has no lines; one that was written anew with further
    columns is read anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.curves: dict[str, Curve] = {}
        self.last: tuple[int, int] | None = None
        self._names: list[str] = []
        self._at = 0
        self._file: tuple[int, int] | None = None

    def read(self) -> bool:
        """Take in what is new; gives whether anything was."""
        try:
            with self.path.open("rb") as file:
                status = self.path.stat()
                if (status.st_dev, status.st_ino) != self._file or status.st_size < self._at:
                    self.__init__(self.path)  # type: ignore[misc]
                    self._file = (status.st_dev, status.st_ino)
                file.seek(self._at)
                text = file.read()
        except OSError:
            return False
        whole = text[: text.rfind(b"\n") + 1]
        self._at += len(whole)
        for row in csv.reader(whole.decode("utf-8", "replace").splitlines()):
            self._take(row)
        return bool(whole)

    def _take(self, row: list[str]) -> None:
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
            curve = self.curves.setdefault(name, Curve())
            curve.steps.append(step)
            curve.epochs.append(epoch)
            curve.values.append(value)


@dataclass(frozen=True)
class Progress:
    """How far a run is; what is not known yet is ``None``."""

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
    def share(self) -> float | None:
        """The fraction of training that is done."""
        return None if not self.max_steps else min(self.step / self.max_steps, 1.0)


class LiveRun:
    """A run folder that may be growing.

    Args:
        folder: the run folder; its config says how long training is to be, its metrics.csv says the rest.

    Raises:
        UserError: it is no run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.run = RunFolder(folder)
        self.tail = MetricsTail(self.run.metrics_file)

    @property
    def status(self) -> str:
        """The status, see :func:`imgrec.runs.liveness.status_of`."""
        try:
            return status_of(self.run)
        except UserError:
            return "starting"

    @property
    def ended(self) -> bool:
        """True if nothing more will be written: no process trains or evaluates the run."""
        return self.status not in ("starting", "running") and not is_alive(self.run)

    def silent_for(self) -> float:
        """The seconds since metrics.csv, or else the config, was written to, by this machine's clock."""
        written = [path.stat().st_mtime for path in (self.tail.path, self.run.path / CONFIG) if path.exists()]
        return max(time.time() - max(written), 0.0) if written else 0.0

    def best(self, metric: str = "val/acc") -> tuple[float, int] | None:
        """The best value of a metric so far, and its epoch, counted from 0."""
        curve = self.tail.curves.get(metric)
        if curve is None or not np.isfinite(curve.values).any():
            return None
        values = np.asarray(curve.values)
        at = int(np.nanargmin(values) if mode_of(metric) == "min" else np.nanargmax(values))
        return float(values[at]), curve.epochs[at]

    def progress(self) -> Progress:
        """How far it is."""
        curves = self.tail.curves
        trainer: dict[str, Any] = self.run.config.get("trainer") or {}
        ends = curves.get("train/loss", Curve())
        step, epoch = self.tail.last or (0, 0)
        trained = [curve for name, curve in curves.items() if not name.startswith("test/")]
        step = max((curve.steps[-1] + 1 for curve in trained), default=0)
        per_epoch = (ends.steps[-1] + 1) / (ends.epochs[-1] + 1) if len(ends) else None
        max_epochs = _limit(trainer.get("max_epochs"))
        limits = [_limit(trainer.get("max_steps"))]
        if max_epochs is not None and per_epoch is not None:
            limits.append(round(max_epochs * per_epoch))
        known = [limit for limit in limits if limit is not None]
        max_steps = min(known) if known else None
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


def _last(curves: dict[str, Curve], name: str) -> float | None:
    return curves[name].values[-1] if name in curves else None


def _rate(curves: dict[str, Curve], per_epoch: float | None) -> float | None:
    """Steps a second, validation included: by the usual one of the last epochs, or over everything in the first two."""
    clock = curves.get(SECONDS, Curve())
    when = dict(zip(clock.steps, clock.values, strict=True))
    ends = [when[step] for step in curves.get("train/loss", Curve()).steps if step in when]
    if per_epoch and len(ends) >= 2:
        span = float(np.median(np.diff(ends[-1 - _WINDOW :])))
        return per_epoch / span if span > 0 else None
    if len(clock) < 2 or clock.values[-1] <= clock.values[0]:
        return None
    return (clock.steps[-1] - clock.steps[0]) / (clock.values[-1] - clock.values[0])
