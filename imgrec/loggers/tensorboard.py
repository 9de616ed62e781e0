"""TensorBoard log in the run folder: `tensorboard --logdir runs` shows every run under its name."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger as LightningTensorBoardLogger

from imgrec.errors import UserError
from imgrec.loggers.base import RunLogger
from imgrec.runs.config import flat_config
from imgrec.runs.folder import RunFolder


class TensorBoardLogger(RunLogger, LightningTensorBoardLogger):
    """Logger that writes to ``tensorboard/`` in the run folder. ``TensorBoardLogger`` in a YAML is this class.

    The resolved config becomes flat hyper-parameters. The log of a resumed run is written again from metrics.csv,
    without missing or repeated values.

    Args:
        save_dir: Folder outside the run folder, in which ``name`` and ``version`` are used as in Lightning. Defaults to
            the run folder.
        **kwargs: Arguments of ``TensorBoardLogger`` of Lightning and of ``SummaryWriter`` of torch.

    Raises:
        UserError: If the package tensorboard is missing.
    """

    def __init__(self, save_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        inside: dict[str, Any] = {"name": "", "version": "tensorboard"} if save_dir is None else {}
        try:
            super().__init__(save_dir=os.fspath(save_dir or "."), **inside | kwargs)
        except ModuleNotFoundError as error:
            raise UserError(
                "TensorBoardLogger: expected the package tensorboard. Install it with pip install 'imgrec[tensorboard]'"
            ) from error
        self._inside = save_dir is None
        self._begun = save_dir is not None
        self._config: dict[str, Any] | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """``SummaryWriter`` of torch, once there is a run folder or a logged metric.

        Raises:
            AttributeError: If there is neither. Lightning reads this attribute before the training starts.
        """
        if not self._begun:
            raise AttributeError("The files of TensorBoard begin with training, once the run folder exists.")
        return super().experiment

    @rank_zero_only
    def begin_run(self, folder: Path) -> None:
        """Write into a run folder from now on."""
        if self._inside and self._root_dir != str(folder):
            self._close()
            self._root_dir = str(folder)
        self._begun = True
        self._config = flat_config(RunFolder(folder).config)

    @rank_zero_only
    def resume(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Write all rows again."""
        self._close()
        self._kwargs["purge_step"] = 0  # TensorBoard then ignores older files
        for step, metrics in rows.items():
            self.log_metrics(metrics, step)
        del self._kwargs["purge_step"]

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log the config of the run, or ``params`` without a run folder."""
        self._begun = True
        super().log_hyperparams(params if self._config is None else self._config, *args, **kwargs)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write the metrics of a step."""
        if not self.muted:
            self._begun = True
            super().log_metrics(metrics, step)

    @rank_zero_only
    def close(self) -> None:
        """Close the files."""
        self._close()

    def _close(self) -> None:
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None
