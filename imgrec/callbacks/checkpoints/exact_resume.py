"""State of a training that the checkpoints of Lightning lack."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import Tensor

from imgrec.tasks import BaseTask

logger = logging.getLogger(__name__)

_KEY = "imgrec_resume"


class ResumeState(pl.Callback):
    """Callback that adds the missing state to every checkpoint, so that a resumed run is exact.

    It adds accumulated gradients, the step of the loggers, the metrics that callbacks read between two validations, and
    the ids of unreadable images. All are restored before the next batch. A checkpoint of the end of an epoch becomes
    one of the start of the next. Lightning would otherwise run an empty epoch with ``max_steps``.

    With several processes the gradients of an unfinished accumulation differ between processes and are not restored.
    ``last.ckpt`` is only written between two optimizer steps.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, Any] | None = None
        self._callbacks: dict[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the state."""
        figures = {name: value.detach().cpu() for name, value in trainer.callback_metrics.items()}
        checkpoint[_KEY] = {
            "log_step": next_log_step(trainer),
            "figures": figures,
            "gradients": _gradients(trainer, pl_module),
            "accumulated": _accumulated(pl_module),
            "processes": trainer.world_size,
            "images_at_once": _images_at_once(trainer),
            "skipped_images": dict(getattr(trainer.datamodule, "skipped", {})),  # type: ignore[attr-defined]
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the state until training starts."""
        self._loaded = checkpoint.get(_KEY)
        self._callbacks = checkpoint.get("callbacks", {})
        if "loops" in checkpoint:
            loops = checkpoint["loops"]["fit_loop"]
            begin_next_epoch(loops)
            if self._loaded is not None:
                _keep_position(trainer, loops, self._loaded)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore everything except the step of the loggers."""
        if self._loaded is None:
            return
        trainer._logger_connector._callback_metrics.update(self._loaded["figures"])
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.state_key in self._callbacks:
                callback.current_score = self._callbacks[callback.state_key][
                    "current_score"
                ]  # Lightning saves it, but does not load it
        data = trainer.datamodule  # type: ignore[attr-defined]
        if hasattr(data, "skipped"):
            data.skipped.update(self._loaded["skipped_images"])
        if self._loaded["processes"] == trainer.world_size == 1:
            parameters = dict(pl_module.named_parameters())
            for name, gradient in self._loaded["gradients"].items():
                parameters[name].grad = gradient.to(parameters[name].device)
            if isinstance(pl_module, BaseTask) and self._loaded["gradients"]:
                pl_module.accumulated.total, pl_module.accumulated.first = self._loaded["accumulated"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the step of the loggers, which Lightning increments once too often after a validation."""
        if self._loaded is None:
            return
        trainer.fit_loop.epoch_loop._batches_that_stepped = self._loaded["log_step"]
        self._loaded = None
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, GradientAccumulationScheduler):  # it acts at the start of an epoch only
                callback.on_train_epoch_start(trainer)


def next_log_step(trainer: pl.Trainer) -> int:
    """Return the step under which loggers write the next batch."""
    loop: Any = trainer.fit_loop.epoch_loop
    step: int = loop._batches_that_stepped
    within = loop.batch_progress.current.processed > loop.batch_progress.current.completed or trainer.validating
    return step + 1 if within and not loop._should_accumulate() else step


def open_log_step(trainer: pl.Trainer) -> int:
    """Return the first step whose row may be incomplete."""
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    return step - 1 if _epoch_ends(trainer) else step


def logged_soon(trainer: pl.Trainer) -> dict[str, float]:
    """Return the metrics that Lightning is about to log for that step. Callbacks may save a checkpoint before."""
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


def _accumulated(pl_module: pl.LightningModule) -> list[int]:
    """Return the number of samples of the accumulated gradients, in total and in the first batch."""
    return [pl_module.accumulated.total, pl_module.accumulated.first] if isinstance(pl_module, BaseTask) else [0, 0]


def _images_at_once(trainer: pl.Trainer) -> int | None:
    """Return the number of images that all processes together take from the order of the epoch."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    size = getattr(getattr(data, "hparams", None), "batch_size", None)
    return size * trainer.world_size if isinstance(size, int) else None


def _keep_position(trainer: pl.Trainer, loops: dict[str, Any], loaded: dict[str, Any]) -> None:
    """Continue at the same position of the epoch with another batch size. Warn if the result is not exact."""
    before, now, processes = loaded["images_at_once"], _images_at_once(trainer), loaded["processes"]
    if before is None or now is None or (before, processes) == (now, trainer.world_size):
        return
    number = f"in {trainer.world_size} process(es) instead of {processes}"
    if before == now:
        what = f"the same images at every step, {number}, with other random draws and other rounding"
    else:
        recount(loops, before, now, trainer.accumulate_grad_batches)
        what = f"{now} images at once instead of {before}, {number}, with other batches from the same position"
    if trainer.is_global_zero:
        logger.warning("%s. The run ends with other weights", what)


def recount(loops: dict[str, Any], before: int, now: int, accumulated: int) -> None:
    """Convert the number of finished batches of an epoch to another number of images per batch, in place.

    Images of an incomplete batch are used again.

    >>> batches = {"ready": 6, "started": 6, "processed": 6, "completed": 6}
    >>> loops = {"epoch_loop.batch_progress": {"current": batches}}
    >>> recount(loops, before=128, now=64, accumulated=1)
    >>> loops["epoch_loop.batch_progress"]["current"]["ready"]
    12
    """
    batches = loops["epoch_loop.batch_progress"]["current"]
    done = batches["completed"] * before // now
    loops["epoch_loop.batch_progress"]["current"] = dict.fromkeys(batches, done - done % accumulated)


def begin_next_epoch(loops: dict[str, Any]) -> None:
    """Convert the state of the loops at the end of an epoch to that at the start of the next, in place."""
    epochs = loops["epoch_progress"]
    if epochs["current"]["processed"] != epochs["current"]["completed"] + 1:
        return
    for counted in (epochs["total"], epochs["current"]):
        counted["completed"] = counted["processed"]
    batches = loops["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
