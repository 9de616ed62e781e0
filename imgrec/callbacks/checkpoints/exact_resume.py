"""What Lightning's checkpoints lack for a run to go on as if it had not ended."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch import Tensor

from imgrec.tasks import BaseTask

logger = logging.getLogger(__name__)

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
            "accumulated": _accumulated(pl_module),
            "processes": trainer.world_size,
            "images_at_once": _images_at_once(trainer),
            "skipped_images": dict(getattr(trainer.datamodule, "skipped", {})),  # type: ignore[attr-defined]
        }

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep it until training starts."""
        self._loaded = checkpoint.get(_KEY)
        self._callbacks = checkpoint.get("callbacks", {})
        if "loops" in checkpoint:
            loops = checkpoint["loops"]["fit_loop"]
            begin_next_epoch(loops)
            if self._loaded is not None:
                _keep_place(trainer, loops, self._loaded)

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
            if isinstance(pl_module, BaseTask) and self._loaded["gradients"]:
                pl_module.accumulated.total, pl_module.accumulated.first = self._loaded["accumulated"]

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


def _accumulated(pl_module: pl.LightningModule) -> list[int]:
    """Samples behind those gradients, in all and of the first batch."""
    return [pl_module.accumulated.total, pl_module.accumulated.first] if isinstance(pl_module, BaseTask) else [0, 0]


def _images_at_once(trainer: pl.Trainer) -> int | None:
    """How many images the processes together take from the epoch's order at a time."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    size = getattr(getattr(data, "hparams", None), "batch_size", None)
    return size * trainer.world_size if isinstance(size, int) else None


def _keep_place(trainer: pl.Trainer, loops: dict[str, Any], loaded: dict[str, Any]) -> None:
    """Go on at the same place of the epoch's order, whatever a batch is now; say where that is not exact."""
    before, now, processes = loaded["images_at_once"], _images_at_once(trainer), loaded["processes"]
    if before is None or now is None or (before, processes) == (now, trainer.world_size):
        return
    number = f"in {trainer.world_size} process(es) instead of {processes}"
    if before == now:
        what = f"the same images at every step, {number}: what is drawn in a step and the last digits are others"
    else:
        recount(loops, before, now, trainer.accumulate_grad_batches)
        what = f"{now} images at once instead of {before}, {number}: from the same place on, the batches are others"
    if trainer.is_global_zero:
        logger.warning("%s, and the run ends elsewhere", what)


def recount(loops: dict[str, Any], before: int, now: int, accumulated: int) -> None:
    """Count the batches of the epoch that were done anew, in place, where a batch was ``before`` images and is ``now``.

    Images of a batch that is not whole are seen once more.

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
    """Turn the loops' state at the end of an epoch, in place, into that at the beginning of the next."""
    epochs = loops["epoch_progress"]
    if epochs["current"]["processed"] != epochs["current"]["completed"] + 1:
        return
    for counted in (epochs["total"], epochs["current"]):
        counted["completed"] = counted["processed"]
    batches = loops["epoch_loop.batch_progress"]
    batches["current"] = dict.fromkeys(batches["current"], 0)
    batches["is_last_batch"] = False
