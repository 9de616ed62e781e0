"""Checkpoint of the best epoch, with a tie breaker."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from imgrec.errors import UserError
from imgrec.metrics.names import mode_of
from imgrec.tasks.epoch_metrics import directions_of


class BestCheckpoint(ModelCheckpoint):
    """Checkpoint callback that writes ``best.ckpt`` after the epoch with the best validation.

    On a small validation split many epochs reach the same accuracy. The callback of Lightning keeps the first of these,
    whose learning rate is still high. This callback keeps the one with the smallest ``tie_breaker``.

    Args:
        monitor: Metric. Defaults to ``val/acc``.
        mode: ``min`` or ``max``. Defaults to the direction of the metric, ``higher_is_better``.
        tie_breaker: Metric, smaller is better, that decides between equal values of ``monitor``. Defaults to
            ``val/loss``.
        dirpath: Folder. Defaults to ``checkpoints/`` of the run.

    Raises:
        UserError: If ``mode`` is unknown.

    Example::

        trainer:
          callbacks:
            - {class_path: BestCheckpoint, monitor: val/f1_macro}
    """

    def __init__(
        self,
        monitor: str = "val/acc",
        mode: Literal["min", "max"] | None = None,
        tie_breaker: str = "val/loss",
        dirpath: str | None = None,
    ) -> None:
        if mode not in (None, "min", "max"):
            raise UserError(f'BestCheckpoint.mode: expected "min" or "max", got "{mode}".')
        super().__init__(
            dirpath=dirpath,
            monitor=monitor,
            mode=mode or mode_of(monitor),
            filename="best",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._given_mode = mode
        self._initial_mode = self.mode
        self.tie_breaker = tie_breaker
        self.best_tie: float | None = None
        """Value of the tie breaker at the best epoch."""

    @property
    def state_key(self) -> str:
        """Key of the state in a checkpoint: Lightning's, with the mode before :meth:`on_fit_start`."""
        return self._generate_state_key(
            monitor=self.monitor,
            mode=self._initial_mode,
            every_n_train_steps=self._every_n_train_steps,
            every_n_epochs=self._every_n_epochs,
            train_time_interval=self._train_time_interval,
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Use the direction that the task states for the metric, if ``mode`` was not given."""
        assert self.monitor is not None
        mode = self._given_mode or mode_of(self.monitor, directions_of(pl_module))
        if mode != self.mode:
            self.mode = mode
            if not self.best_k_models:
                self.kth_value = torch.tensor(torch.inf if mode == "min" else -torch.inf)

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Return True if this validation is the best so far. The result is the same on every process."""
        better: bool = super().check_monitor_top_k(trainer, current)
        tie = trainer.callback_metrics.get(self.tie_breaker)
        value = None if tie is None else float(tie)
        if not better and current is not None and value is not None and self.best_tie is not None:
            equal = self.best_model_score is not None and float(current) == float(self.best_model_score)
            better = trainer.strategy.reduce_boolean_decision(equal and value < self.best_tie)
        if better:
            self.best_tie = value
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return the state of Lightning's callback and the value of the tie breaker."""
        return {**super().state_dict(), "best_tie": self.best_tie}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(state_dict)
        self.best_tie = state_dict.get("best_tie")
