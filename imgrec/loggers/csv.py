"""metrics.csv as a logger of Lightning."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger

from imgrec.runs.metrics_csv import MetricsLog, read_metrics
from imgrec.runs.system import SECONDS
from imgrec.utils.write_errors import WriteError


class MetricsLogger(Logger):
    """Logger that writes all metrics of a step as one row of metrics.csv.

    ``system/seconds`` is the time of the row since the start of the run. A resumed run continues to count.

    Args:
        folder: Run folder, ``<root>/<experiment>/<run id>``.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._log: MetricsLog | None = None
        self._row: dict[str, float] = {}
        self._step = 0
        self._epoch = 0
        self._first: int | None = None
        self._began = time.perf_counter()
        self._before: float | None = None
        self.muted = False

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """Id of the run."""
        return self.folder.name

    @property
    def save_dir(self) -> str:
        """Run folder."""
        return str(self.folder)

    @property
    def log_dir(self) -> str:
        """Run folder."""
        return str(self.folder)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Skip the hyper-parameters, which config.yaml contains."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add metrics to the row of a step."""
        if self.muted:
            return
        values = {name: shortest(value) for name, value in metrics.items() if name != "epoch"}
        at = step or 0
        if at != self._step or self._row.keys() & values.keys():
            self.flush()
        self._step = at
        self._epoch = int(metrics.get("epoch", self._epoch))
        self._row |= values
        if values:
            self._row[SECONDS] = self._seconds()

    def gathered(self, step: int, soon: Mapping[str, float]) -> dict[str, Any]:
        """Return the incomplete row of a step for a checkpoint. Earlier rows are written to disk.

        Args:
            step: First step whose row may be incomplete.
            soon: Metrics that are about to be logged for it.
        """
        if self._step < step:
            self.flush()
        if self._log is not None:
            self._log.synchronise()
        row = dict(self._row) if self._step == step else {}
        return {"step": step, "epoch": self._epoch, "values": row | {k: shortest(v) for k, v in soon.items()}}

    @rank_zero_only
    def go_on(self, gathered: Mapping[str, Any]) -> None:
        """Resume the file from a result of :meth:`gathered`. Rows of that step and later are dropped."""
        self._first = int(gathered["step"])
        self._step, self._epoch = self._first, int(gathered["epoch"])
        self._row = dict(gathered["values"])
        self._open()

    @rank_zero_only
    def flush(self) -> None:
        """Write the present row.

        Raises:
            WriteError: If the disk is full, or if the file cannot be written.
        """
        if self._log is not None and not self.folder.is_dir():  # deleted, and the recorder ends the run
            self.discard()
        if not self._row:
            return
        try:
            self._open().append(self._step, self._epoch, self._row)
        except OSError as error:
            self._row = {}
            raise WriteError(self.folder / "metrics.csv", error.strerror or str(error), error.errno) from error
        self._row = {}

    def discard(self) -> None:
        """Drop the present row, because the run folder was deleted."""
        self._row = {}

    def _open(self) -> MetricsLog:
        if self._log is None:
            last = None if self._first is None else self._first - 1
            self._log = MetricsLog(self.folder / "metrics.csv", last)
            self._first = None
        return self._log

    def _seconds(self) -> float:
        if self._before is None:
            path = self.folder / "metrics.csv"
            series = read_metrics(path).get(SECONDS) if path.is_file() and path.stat().st_size else None
            self._before = float(series.values[-1]) if series is not None else 0.0
        return round(self._before + time.perf_counter() - self._began, 3)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the last row and close the file."""
        self.flush()
        if self._log is not None:
            self._log.close()
            self._log = None


def shortest(value: float) -> float:
    """Return the float64 with the fewest digits that rounds to the same float32, if ``value`` is a float32.

    >>> shortest(0.11731843650341034), shortest(0.1)
    (0.11731844, 0.1)
    """
    single = np.float32(value)
    return float(str(single)) if float(single) == float(value) else float(value)
