"""metrics.csv as a Lightning logger, so that it gets exactly what W&B or TensorBoard get."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

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
        self._position: tuple[int, int] | None = None

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
        values = {name: float(value) for name, value in metrics.items() if name != "epoch"}
        at = step or 0
        epoch = int(metrics["epoch"]) if "epoch" in metrics else None
        if self._position is None or self._position[0] != at or self._row.keys() & values.keys():
            self.save()
            self._position = (at, epoch if epoch is not None else self._last_epoch)
        if epoch is not None:
            self._position = (at, epoch)
        self._row |= values

    @rank_zero_only
    def save(self) -> None:
        """Write the row that is being gathered."""
        if self._row and self._position is not None:
            self._log = self._log or MetricsLog(self.folder / "metrics.csv")
            self._log.append(*self._position, self._row)
            self._row = {}

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left, and close."""
        self.save()
        if self._log is not None:
            self._log.close()
            self._log = None

    @property
    def _last_epoch(self) -> int:
        return self._position[1] if self._position else 0
