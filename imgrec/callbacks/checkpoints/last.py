"""The checkpoints that a run goes on from, written between two steps, when nothing is half done."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn

from imgrec.callbacks.checkpoints.io import WholeCheckpointIO
from imgrec.callbacks.checkpoints.preemption import StopRequest
from imgrec.errors import UserError
from imgrec.runs.checkpoints import LAST

logger = logging.getLogger(__name__)


class LastCheckpoint(pl.Callback):
    """Writes ``last.ckpt``, from which a run goes on as if it had never ended.

    It is written between two optimizer steps, when the figures of the last one are logged and, at the end of an epoch,
    validation has been done: at the start of each epoch but the first and when training ends, every so many steps or
    minutes on request, and when SIGTERM, SIGHUP or Ctrl-C requests the training to end::

        trainer:
          callbacks:
            - {class_path: LastCheckpoint, every_minutes: 10, keep: 3}

    A second signal ends the process at once. After SIGTERM and SIGHUP the exit status is 75, so that a script can
    distinguish "start again" from a failure.

    Args:
        every_steps: write after so many optimizer steps, too.
        every_minutes: write after so many minutes, too.
        keep: how many to keep: ``last.ckpt``, and the ones before it as ``last-<step>.ckpt``.
        dirpath: the folder; by default the run's ``checkpoints/``.

    Raises:
        UserError: a number that cannot be.
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
                raise UserError(f"LastCheckpoint.{name}: must be above 0, got {value}.")
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.dirpath = dirpath
        self._signals = StopRequest()
        self._saving = False
        self._ended = False
        self._trained = False
        self._whole = True
        """Whether the last batch completed an optimizer step."""
        self._standing: int | None = None
        """The step of the checkpoint that stands at ``last.ckpt``, where that is known to be whole."""
        self._saved_step: int | None = None
        self._saved_at = 0.0

    # ---------------------------------------------------------------- when

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals."""
        self._listen(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals; what a resumed run begins with is saved already."""
        self._listen(trainer)
        self._whole = True
        self._trained = False
        self._ended = False
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        begun_with = trainer.ckpt_path
        if begun_with is not None and Path(begun_with).absolute() == self._last(trainer).absolute():
            self._standing = trainer.global_step

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: save where it is time to, and end where that was asked for."""
        self._trained = True
        if self._whole:
            self._save_or_end(trainer, self._due(trainer, batch_idx))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note whether gradients are being gathered for a later step: they are in no checkpoint."""
        self._whole = not trainer.fit_loop._should_accumulate()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end of training; give the signals back. What a run that ends at once began with stays as it is."""
        self._ended = True
        self._save_or_end(trainer, due=self._trained or self._standing is None)
        self._signals.leave()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let SIGTERM and SIGHUP end an evaluation after training at once."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._signals.end_at_once(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let SIGTERM and SIGHUP end an evaluation after training at once."""
        self._signals.end_at_once(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
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

    # ---------------------------------------------------------------- how

    def _save_or_end(self, trainer: pl.Trainer, due: bool) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        error = _gave_up(trainer)
        due, reason = self._signals.agreed(trainer, due, error is not None)
        if due or self._signals.wants_checkpoint(reason):
            self._save(trainer)
        if self._ended and not reason:  # no further step will find out that this one could not be written
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
        """Say that the next batch has not begun, where it is counted already."""
        if self._saving:
            settle(checkpoint["loops"]["fit_loop"], self._ended)


def _gave_up(trainer: pl.Trainer) -> UserError | None:
    io = trainer.strategy.checkpoint_io
    return io.gave_up if isinstance(io, WholeCheckpointIO) else None


def _failures(trainer: pl.Trainer) -> int:
    io = trainer.strategy.checkpoint_io
    return io.failed if isinstance(io, WholeCheckpointIO) else 0


def _second_name(path: Path, name: Path) -> None:
    """Let a file stand under ``name`` too; where the file system has no links, under ``name`` alone."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        path.rename(name)


def settle(loops: dict[str, Any], ended: bool) -> None:
    """Set Lightning's counters back to the end of the last batch, in a checkpoint taken as the next one begins.

    Args:
        loops: the state of the fit loop, changed in place.
        ended: whether training has ended, so that no further batch has begun.
    """
    batches = loops["epoch_loop.batch_progress"]
    batches["is_last_batch"] = False
    if ended:  # or training for longer would find an epoch whose batches are all done
        batches["current"] = dict.fromkeys(batches["current"], 0)
    else:
        for counted in (batches["total"], batches["current"]):
            counted["ready"] = counted["completed"]
