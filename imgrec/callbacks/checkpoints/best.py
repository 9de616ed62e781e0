"""The checkpoint of the best epoch, where several are equally good by the metric: that with the smallest loss."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from imgrec.errors import UserError


class BestCheckpoint(ModelCheckpoint):
    """Writes ``best.ckpt`` at the end of the epoch whose validation was the best.

    On a validation split of a few hundred images many epochs reach the same accuracy, and Lightning's callback keeps
    the first, whose learning rate is still high. Here the one with the smallest ``tie_breaker`` among them is kept.

    Args:
        monitor: the metric.
        mode: whether more of it is better, or less.
        tie_breaker: a metric of which less is better; it decides where ``monitor`` is the same to the last digit.
        dirpath: the folder; by default the run's ``checkpoints/``.

    Raises:
        UserError: ``mode`` is another word.

    Example::

        trainer:
          callbacks:
            - {class_path: BestCheckpoint, monitor: val/f1_macro}
    """

    def __init__(
        self,
        monitor: str = "val/acc",
        mode: Literal["min", "max"] = "max",
        tie_breaker: str = "val/loss",
        dirpath: str | None = None,
    ) -> None:
        if mode not in ("min", "max"):
            raise UserError(f'BestCheckpoint: `mode` is min or max, got "{mode}".')
        super().__init__(
            dirpath=dirpath,
            monitor=monitor,
            mode=mode,
            filename="best",
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.tie_breaker = tie_breaker
        self.best_tie: float | None = None
        """The tie-breaker's value at the best epoch."""

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        """Whether this validation is the best one so far; the same on every process."""
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
        """Lightning's, and the tie-breaker's value."""
        return {**super().state_dict(), "best_tie": self.best_tie}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        super().load_state_dict(state_dict)
        self.best_tie = state_dict.get("best_tie")
