"""Experiment: the task, the data module and the trainer of a config."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl

from imgrec import trust
from imgrec.engine.config import Config
from imgrec.engine.instantiate import instantiate
from imgrec.engine.library_output import quiet_libraries
from imgrec.engine.resolve import resolve
from imgrec.engine.trainer import build_trainer
from imgrec.engine.tuning.auto_precision import resolve_auto
from imgrec.utils import yaml


class Experiment:
    """Task, data module and trainer of a config. No data is read, and nothing is run.

    Args:
        config: Merged config, see :func:`imgrec.engine.config.merge`.
        bare: If true, use no loggers, no checkpoints, and no callbacks except those of progress. An evaluation
            requires no others. Defaults to ``False``.

    Attributes:
        config: Resolved config.
        task: LightningModule.
        data: LightningDataModule.
        trainer: Lightning's Trainer.

    Raises:
        UserError: If a key of the config is unknown or missing, or if a value is invalid.
    """

    def __init__(self, config: Config, bare: bool = False) -> None:
        quiet_libraries()
        with trust.reading("the config of the run") if trust.current() is not None else nullcontext():
            self._build(config, bare)

    def _build(self, config: Config, bare: bool) -> None:
        self.config = resolve(config)
        pl.seed_everything(self.config["seed_everything"], verbose=False)
        self.data: Any = instantiate(self.config["data"], pl.LightningDataModule, "data")
        self.task: Any = instantiate(self.config["model"], pl.LightningModule, "model")
        if not bare and (check := getattr(self.task, "check_data_module", None)) is not None:
            check(self.data)
        self.trainer: Any = build_trainer(self.config["trainer"], bare)

    def resolve_auto(self) -> Any:
        """Replace ``auto`` by measured values, which reads the data. Return the trainer for these values."""
        if resolve_auto(self):
            self.trainer = build_trainer(self.config["trainer"], bare=False)
        return self.trainer

    @property
    def resolved(self) -> str:
        """Resolved config as YAML. ``imgrec fit --config`` on it repeats the run."""
        return yaml.dump(self.config)
