"""metrics.csv as a Lightning logger, so that it gets exactly what W&B or TensorBoard get."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers.logger import Logger

from imgrec.runs.metrics_log import MetricsLog


class MetricsLogger(Logger):
    """Writes what is logged at one step as one row of a run folder's metrics.csv.

    Args:
        folder: the run folder, ``<root>/<experiment>/<run id>``.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._log: MetricsLog | None = None
        self._row: dict[str, float] = {}
        self._step = 0
        self._epoch = 0
        self.muted = False

    @property
    def name(self) -> str:
        """The experiment."""
        return self.folder.parent.name

    @property
    def version(self) -> str:
        """The run id."""
        return self.folder.name

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add to the row of this step."""
        if self.muted:
            return
        values = {name: shortest(value) for name, value in metrics.items() if name != "epoch"}
        at = step or 0
        if at != self._step or self._row.keys() & values.keys():
            self.flush()
        self._step = at
        self._epoch = int(metrics.get("epoch", self._epoch))
        self._row |= values

    @rank_zero_only
    def flush(self) -> None:
        """Write the row that is being gathered."""
        if self._row:
            self._log = self._log or MetricsLog(self.folder / "metrics.csv")
            self._log.append(self._step, self._epoch, self._row)
            self._row = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left, and close."""
        self.flush()
        if self._log is not None:
            self._log.close()
            self._log = None


def shortest(value: float) -> float:
    """The float64 that is written with the fewest digits and is still the same float32, where ``value`` is a float32.

    >>> shortest(0.11731843650341034), shortest(0.1)
    (0.11731844, 0.1)
    """
    single = np.float32(value)
    return float(str(single)) if float(single) == float(value) else float(value)
