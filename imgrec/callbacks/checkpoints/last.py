"""Checkpoints to resume from, written between two optimizer steps."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from imgrec.callbacks.checkpoints.io import AtomicCheckpointIO
from imgrec.callbacks.checkpoints.preemption import StopRequest
from imgrec.errors import UserError
from imgrec.runs.checkpoints import LAST

logger = logging.getLogger(__name__)


class LastCheckpoint(pl.Callback):
    """Checkpoint callback that writes ``last.ckpt``, from which a resumed run is exact.

    It is written between two optimizer steps, after the metrics of the last step were logged and the validation is
    done. This is at the start of every epoch except the first, at the end of training, and every given number of steps
    or minutes. SIGTERM, SIGHUP and Ctrl-C end the training with a checkpoint as well::

        trainer:
          callbacks:
            - {class_path: LastCheckpoint, every_minutes: 10, keep: 3}

    A second signal ends the process at once. The exit status after SIGTERM and SIGHUP is 75, so that a script can
    distinguish it from a failure.

    Args:
        every_steps: Number of optimizer steps between two additional checkpoints, above 0.
        every_minutes: Minutes between two additional checkpoints, above 0.
        keep: Number of checkpoints: ``last.ckpt``, and earlier ones as ``last-<step>.ckpt``. Defaults to 1.
        dirpath: Folder. Defaults to ``checkpoints/`` of the run.

    Raises:
        UserError: If an argument is out of range.
    """

    def __init__(
        self,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep: int = 1,
        dirpath: str | None = None,
    ) -> None:
        for name, value in {"every_steps": every_steps, "every_minutes": every_minutes, "keep": keep}.items():
            if value is not None and not value > 0:
                raise UserError(f"LastCheckpoint.{name}: expected a value above 0, got {value}.")
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.dirpath = dirpath
        self._signals = StopRequest()
        self._saving = False
        self._ended = False
        self._trained = False
        self._whole = True
        """True if the last batch completed an optimizer step."""
        self._standing: int | None = None
        """Step of the present ``last.ckpt``, if it is complete."""
        self._saved_step: int | None = None
        self._saved_at = 0.0

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers."""
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Install the signal handlers. A resumed checkpoint is not written again."""
        self._listen(trainer)
        self._whole = True
        self._trained = False
        self._ended = False
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        resumed_from = trainer.ckpt_path
        if resumed_from is not None and Path(resumed_from).absolute() == self._last(trainer).absolute():
            self._standing = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save between two optimizer steps if it is due, and end if a signal requested it."""
        self._trained = True
        if self._whole:
            self._save_or_end(trainer, self._due(trainer, batch_idx))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Detect accumulated gradients, which no checkpoint of several processes contains."""
        self._whole = not trainer.fit_loop._should_accumulate()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of training and restore the signal handlers. A run that ends at once keeps its checkpoint."""
        self._ended = True
        self._save_or_end(trainer, due=self._trained or self._standing is None)
        self._signals.leave()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Allow SIGTERM and SIGHUP to end an evaluation after training at once."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._signals.end_at_once(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Allow SIGTERM and SIGHUP to end an evaluation after training at once."""
        self._signals.end_at_once(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the signal handlers."""
        self._signals.leave()

    def _listen(self, trainer: pl.Trainer) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._signals.listen(trainer, logger.warning if trainer.is_global_zero else logger.debug)

    def _due(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        step = trainer.global_step
        if step == self._saved_step:
            return False
        if batch_idx == 0 or (self.every_steps is not None and step % self.every_steps == 0):
            return True
        return self.every_minutes is not None and time.monotonic() - self._saved_at >= 60 * self.every_minutes

    def _save_or_end(self, trainer: pl.Trainer, due: bool) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        error = _gave_up(trainer)
        due, reason = self._signals.agreed(trainer, due, error is not None)
        if due or self._signals.needs_checkpoint(reason):
            self._save(trainer)
        if self._ended and not reason:  # there is no further step that could raise the error
            error = _gave_up(trainer)
            _, reason = self._signals.agreed(trainer, False, error is not None)
        if reason:
            self._signals.end(trainer, reason, error)

    def _save(self, trainer: pl.Trainer) -> None:
        last = self._last(trainer)
        before, failed = self._standing, _failures(trainer)
        if trainer.is_global_zero and self.keep > 1 and before is not None and last.is_file():
            _second_name(last, last.with_name(f"last-{before}.ckpt"))
        self._saving = True
        try:
            trainer.save_checkpoint(last, weights_only=False)
        finally:
            self._saving = False
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if _failures(trainer) <= failed:
            self._standing = trainer.global_step
            if trainer.is_global_zero:
                self._remove_oldest(last.parent)

    def _last(self, trainer: pl.Trainer) -> Path:
        return Path(self.dirpath or Path(trainer.default_root_dir) / "checkpoints") / LAST

    def _remove_oldest(self, folder: Path) -> None:
        older = [path for path in folder.glob("last-*.ckpt") if path.stem.removeprefix("last-").isdigit()]
        older.sort(key=lambda path: int(path.stem.removeprefix("last-")), reverse=True)
        for path in older[self.keep - 1 :]:
            path.unlink(missing_ok=True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Reset the counters of the batch that has not begun."""
        if self._saving:
            reset_batch_counters(checkpoint["loops"]["fit_loop"], self._ended)


def _gave_up(trainer: pl.Trainer) -> UserError | None:
    io = trainer.strategy.checkpoint_io
    return io.gave_up if isinstance(io, AtomicCheckpointIO) else None


def _failures(trainer: pl.Trainer) -> int:
    io = trainer.strategy.checkpoint_io
    return io.failed if isinstance(io, AtomicCheckpointIO) else 0


def _second_name(path: Path, name: Path) -> None:
    """Link a file to a second name. On a file system without links, rename it."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        path.rename(name)


def reset_batch_counters(loops: dict[str, Any], ended: bool) -> None:
    """Reset the counters of Lightning to the end of the last batch, in a checkpoint at the start of the next.

    Args:
        loops: State of the fit loop, changed in place.
        ended: True if no further batch has begun, because training has ended.
    """
    batches = loops["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    if ended:  # a longer training would resume with a finished epoch
        batches["current"] = dict.fromkeys(batches["current"], 0)
    else:
        for counted in (batches["total"], batches["current"]):
            counted["ready"] = counted["completed"]
