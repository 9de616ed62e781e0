"""TensorBoard as a mirror of the run folder: `tensorboard --logdir runs` shows every run under its own name."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.loggers import TensorBoardLogger as LightningsTensorBoardLogger

from imgrec.errors import UserError
from imgrec.loggers.base import RunMirror
from imgrec.runs.flat_config import flat_config
from imgrec.runs.folder import RunFolder


class TensorBoardLogger(RunMirror, LightningsTensorBoardLogger):
    """Mirrors a run folder into its own ``tensorboard/``; ``TensorBoardLogger`` in a YAML means this class.

    The resolved config becomes flat hyper-parameters. A run that is resumed is written anew from its metrics.csv, and
    TensorBoard forgets what stood there before: no value is missing, and none is there twice.

    Args:
        save_dir: a folder outside of the run folder, in which ``name`` and ``version`` make folders as Lightning's do.
        **kwargs: further arguments of Lightning's ``TensorBoardLogger`` and of torch's ``SummaryWriter``.

    Raises:
        UserError: the package tensorboard is missing.
    """

    def __init__(self, save_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        inside: dict[str, Any] = {"name": "", "version": "tensorboard"} if save_dir is None else {}
        try:
            super().__init__(save_dir=os.fspath(save_dir or "."), **inside | kwargs)
        except ModuleNotFoundError as error:
            raise UserError(
                "TensorBoardLogger needs the package tensorboard: pip install 'imgrec[tensorboard]'"
            ) from error
        self._inside = save_dir is None
        self._begun = save_dir is not None
        self._config: dict[str, Any] | None = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The ``SummaryWriter`` of torch, once there is a run folder or something was logged.

        Raises:
            AttributeError: there is neither yet. Lightning asks before a run is sure to begin at all.
        """
        if not self._begun:
            raise AttributeError("TensorBoard's files begin with training, once the run folder is made")
        return super().experiment

    @rank_zero_only
    def begin_run(self, folder: Path) -> None:
        """Write into this run folder from now on."""
        if self._inside and self._root_dir != str(folder):
            self._close()
            self._root_dir = str(folder)
        self._begun = True
        self._config = flat_config(RunFolder(folder).config)

    @rank_zero_only
    def resume(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Write anew what the log says."""
        self._close()
        self._kwargs["purge_step"] = 0  # what is in older files is not shown any more
        for step, metrics in rows.items():
            self.log_metrics(metrics, step)
        del self._kwargs["purge_step"]

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's config where there is a run folder, else what Lightning gives."""
        self._begun = True
        super().log_hyperparams(params if self._config is None else self._config, *args, **kwargs)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write what belongs to one step."""
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
