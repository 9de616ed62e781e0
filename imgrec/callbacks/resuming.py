"""What Lightning's checkpoints lack for a run to go on as if it had not ended."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import Tensor

_KEY = "imgrec_resume"


class ExactResume(pl.Callback):
    """Adds to each checkpoint what the next step depends on, and Lightning does not save.

    That is: gradients that are being accumulated; the step under which loggers write; the figures that callbacks look
    at between two validations; and the images that could not be read so far. Resumed, each is put back before the next
    batch. A checkpoint of the end of an epoch becomes one of the beginning of the next: Lightning would run an empty
    epoch after it where ``max_steps`` is set.

    Under several processes the gradients of an unfinished accumulation are each process's own and cannot be put back;
    ``last.ckpt`` is only written when none is unfinished.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None
        self._callbacks: dict[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add it."""
        figures = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint[_KEY] = {
            "log_step": next_log_step(trainer),
            "figures": figures,
            "gradients": _gradients(trainer, pl_module),
            "processes": trainer.world_size,
            "batch_size": _batch_size(trainer),
            "skipped_images": dict(getattr(trainer.datamodule, "skipped", {})),  # type: ignore[attr-defined]
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep it until training starts."""
        self._loaded = checkpoint.get(_KEY)
        self._callbacks = checkpoint.get("callbacks", {})
        if "loops" in checkpoint:
            begin_next_epoch(checkpoint["loops"]["fit_loop"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put back what is there before the first batch."""
        if self._loaded is None:
            return
        trainer._logger_connector._callback_metrics.update(self._loaded["figures"])
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.state_key in self._callbacks:
                callback.current_score = self._callbacks[callback.state_key]["current_score"]  # it saves, but not loads
        data = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "skipped"):
            data.skipped.update(self._loaded["skipped_images"])
        if self._loaded["processes"] == trainer.world_size == 1:
            parameters = dict(pl_module.named_parameters())
            for name, gradient in self._loaded["gradients"].items():
                parameters[name].grad = gradient.to(parameters[name].device)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Put back the step under which loggers write: Lightning counts one too many where a validation was due."""
        if self._loaded is None:
            return
        trainer.fit_loop.epoch_loop._batches_that_stepped = self._loaded["log_step"]
        self._loaded = None
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # it acts at the start of an epoch, which is past
                callback.on_train_epoch_start(trainer)


def next_log_step(trainer: pl.Trainer) -> int:
    """The step under which loggers will write the next batch."""
    loop: Any = trainer.fit_loop.epoch_loop
    step: int = loop._batches_that_stepped
    within = loop.batch_progress.current.processed > loop.batch_progress.current.completed or trainer.validating
    return step + 1 if within and not loop._should_accumulate() else step


def open_log_step(trainer: pl.Trainer) -> int:
    """The first step of which not everything is logged yet."""
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return step - 1 if _epoch_ends(trainer) else step


def logged_soon(trainer: pl.Trainer) -> dict[str, float]:
    """What will be logged for that step in any case: callbacks may save before Lightning has handed it to loggers."""
    connector = trainer._logger_connector
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    batch_ends = batches.processed > batches.completed and not trainer.validating
    if _epoch_ends(trainer) or (
        batch_ends and connector.should_update_logs and not trainer.fit_loop._should_accumulate()
    ):
        return {name: float(value) for name, value in connector.metrics["log"].items()}
    return {}


def _epoch_ends(trainer: pl.Trainer) -> bool:
    epochs: Any = trainer.fit_loop.epoch_progress.current
    return bool(epochs.processed > epochs.completed)


def _gradients(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Tensor]:
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    if trainer.accumulate_grad_batches == 1 or progress.processed == 0 or not trainer.fit_loop._should_accumulate():
        return {}
    return {name: p.grad.detach().cpu() for name, p in pl_module.named_parameters() if p.grad is not None}


def _batch_size(trainer: pl.Trainer) -> int | None:
    return getattr(trainer.train_dataloader, "batch_size", None)


def begin_next_epoch(loops: dict[str, Any]) -> None:
    """Turn the loops' state at the end of an epoch, in place, into that at the beginning of the next."""
    epochs = loops["epoch_progress"]
    if epochs["current"]["processed"] != epochs["current"]["completed"] + 1:
        return
    for counted in (epochs["total"], epochs["current"]):
        counted["completed"] = counted["processed"]
    batches = loops["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
