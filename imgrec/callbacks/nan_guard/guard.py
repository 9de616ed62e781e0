"""NaNGuard: stop a training whose loss or weights became NaN or infinite."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from annotated_types import Ge, Gt

from imgrec.callbacks.nan_guard.divergence import Divergence
from imgrec.callbacks.nan_guard.failure import FAILURE, Failure, gather_failure, message
from imgrec.callbacks.nan_guard.replay import RecordedStep, Replay, can_replay, can_snapshot, take_snapshot
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.errors import TrainingFailedError
from imgrec.models.utils.nonfinite import FirstNonfinite, nonfinite
from imgrec.runs.checkpoints import write_checkpoint
from imgrec.runs.summary import write_json
from imgrec.tasks.callback import Callback
from imgrec.utils.ranges import PositiveInt, check_ranges

logger = logging.getLogger(__name__)

LAST_GOOD = "last_good.ckpt"


class NaNGuard(Callback):
    """Guard that stops a failed training and reports the first affected layer and images.

    Training fails if the loss is NaN or infinite, or if it diverges.

    The losses stay on the device. They are checked every ``every_n_steps`` steps, at the end of an epoch and before
    every checkpoint. No step waits for the device, and no checkpoint of invalid weights is written. A copy of the state
    of the training is kept in CPU memory. After a failure the steps since that copy are repeated, with the same random
    numbers, and every layer is observed. The message of a failure without the repetition would only contain the step.

    If the weights are sharded there is no copy, and only the step is reported. With another data module than
    :class:`imgrec.ImageDataModule` the steps cannot be repeated, and only the step is reported.

    Training ends with one message and exit status 3. The run folder contains ``failure.json`` and the copy of the state
    as ``checkpoints/last_good.ckpt``, which `imgrec fit --ckpt_path` resumes.

    Args:
        every_n_steps: Number of steps between two checks. Defaults to 100.
        factor: Ratio of the loss to its running median above which it is too high. None accepts any finite loss.
            Defaults to 10.
        for_steps: Number of steps in a row with such a loss. Defaults to 20.
        window: Number of losses of the median, at least 20. Defaults to 100.

    Raises:
        UserError: If an argument is out of range.
        TrainingFailedError: If the loss or the weights are not finite, or if the loss diverges.

    Example::

        trainer:
          callbacks:
            - {class_path: NaNGuard, factor: 10, for_steps: 20}
    """

    @check_ranges
    def __init__(
        self,
        every_n_steps: PositiveInt = 100,
        factor: Annotated[float, Gt(1)] | None = 10.0,
        for_steps: PositiveInt = 20,
        window: Annotated[int, Ge(20)] = 100,
    ) -> None:
        self.every_n_steps = every_n_steps
        self.rule = None if factor is None else Divergence(factor, for_steps, window)
        self._steps: list[RecordedStep] = []
        self._checked = 0
        self._between = True
        self._started = False
        self._busy = False
        self._snapshot: dict[str, Any] | None = None
        self._modes: dict[str, bool] = {}
        self._watch: FirstNonfinite | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the guard."""
        self._steps, self._checked, self._between, self._started, self._snapshot = [], 0, True, False, None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Check the losses between two optimizer steps and copy the state, if it is due."""
        if self._between and (not self._started or len(self._steps) >= self.every_n_steps):
            self._check_losses(trainer, pl_module)
            self._take_snapshot(trainer, pl_module)
        ids = tuple(getattr(batch, "ids", ()))
        self._steps.append(RecordedStep(trainer.current_epoch, batch_idx, trainer.global_step, ids))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store the loss without a synchronization. Check the losses at the end of an epoch."""
        self._steps[-1].loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._between = not trainer.fit_loop._should_accumulate()
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._check_losses(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the losses and release the copy."""
        self._check_losses(trainer, pl_module)
        self._steps, self._checked, self._started, self._snapshot = [], 0, False, None

    def state_dict(self) -> dict[str, Any]:
        """Return the losses of the running median."""
        return {"rule": None if self.rule is None else self.rule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        if self.rule is not None and state_dict["rule"] is not None:
            self.rule.load_state_dict(state_dict["rule"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Check the losses before a good checkpoint is overwritten."""
        if self._busy or not self._started:
            return
        self._check_losses(trainer, pl_module)
        if self.state_key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def _take_snapshot(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._steps, self._checked, self._started = [], 0, True
        if not can_snapshot(trainer):
            return
        self._modes = {name: part.training for name, part in module.named_modules()}
        self._busy = True
        try:
            self._snapshot = take_snapshot(trainer)
        finally:
            self._busy = False

    def on_model_changed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the state again, because earlier steps cannot be repeated with the changed model."""
        if self._started:
            self._check_losses(trainer, pl_module)
            unfinished = [step for step in self._steps[-1:] if step.loss is None]
            self._take_snapshot(trainer, pl_module)
            self._steps = unfinished

    def _check_losses(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        new = [step for step in self._steps[self._checked :] if step.loss is not None]
        self._checked = len(self._steps)
        if not new:
            return
        mine = torch.stack([step.loss.detach().float() for step in new if step.loss is not None])
        losses: Any = trainer.strategy.reduce(mine, reduce_op="mean")  # a NaN of one process is a NaN of the mean
        for step, loss in zip(new, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                self._fail(trainer, module, "loss", step, loss)
            if self.rule is not None and self.rule.update(loss):
                self._fail(trainer, module, "divergence", step, loss)
        if nonfinite(dict(module.named_parameters())):
            self._fail(trainer, module, "weights", new[-1], losses.tolist()[-1])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """Check the loss while steps are repeated."""
        if self._watch is not None:
            bad = not bool(torch.isfinite(loss.detach()).all())
            if trainer.strategy.reduce_boolean_decision(bad, all=False):
                raise _Found("loss", [])

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradients while steps are repeated. A gradient scaler skips steps that overflow."""
        if self._watch is not None and getattr(trainer.precision_plugin, "scaler", None) is None:
            bad = nonfinite({name: p.grad for name, p in pl_module.named_parameters()})
            if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
                raise _Found("gradient", bad)

    def _fail(
        self, trainer: pl.Trainer, module: pl.LightningModule, kind: str, step: RecordedStep, loss: float
    ) -> None:
        optimizers = trainer.optimizers
        failure = Failure(
            kind=kind,
            epoch=step.epoch,
            batch=step.batch,
            step=step.step,
            process=trainer.global_rank,
            loss=loss,
            median_loss=None if self.rule is None else self.rule.median,
            learning_rate=float(optimizers[0].param_groups[0]["lr"]) if optimizers else None,
            images=step.ids,
        )
        folder = run_folder(trainer)
        if self._snapshot is not None and folder is not None:
            try:
                write_checkpoint(self._snapshot, folder / "checkpoints" / LAST_GOOD)
                failure.last_good = f"checkpoints/{LAST_GOOD}"
                failure.last_good_step = int(self._snapshot["global_step"])
            except OSError as error:
                logger.warning("%s could not be written: %s", LAST_GOOD, error)
        if kind != "divergence" and self._snapshot is not None and can_replay(trainer, module):
            self._repeat(trainer, module, self._snapshot, failure)
        self._snapshot = None
        failure = gather_failure(trainer.world_size, failure)
        if folder is not None:
            write_json(folder / FAILURE, asdict(failure))
        if not trainer.is_global_zero:
            raise SystemExit(0)  # the first process reports it
        raise TrainingFailedError(message(failure, folder))

    def _repeat(
        self, trainer: pl.Trainer, module: pl.LightningModule, snapshot: dict[str, Any], failure: Failure
    ) -> None:
        """Repeat the steps since the snapshot and complete the failure with the first invalid value."""
        self._busy = True
        try:
            with Replay(trainer, module, snapshot, self._modes) as replay:
                for step in self._steps:
                    batch = replay.batch_of(step)
                    with FirstNonfinite(module) as self._watch:
                        try:
                            replay.run(step, batch)
                            bad = nonfinite(dict(module.named_parameters()))
                            if bad:
                                raise _Found("weights", bad)
                        except _Found as found:
                            _fill(failure, found, step, self._watch, batch)
                            return
        finally:
            self._busy, self._watch = False, None


class _Found(Exception):  # noqa: N818 - no error: it ends the search
    def __init__(self, kind: str, parameters: list[str]) -> None:
        super().__init__(kind)
        self.kind = kind
        self.parameters = parameters


def _fill(failure: Failure, found: _Found, step: RecordedStep, watch: FirstNonfinite, batch: Any) -> None:
    failure.repeated = True
    failure.kind = found.kind
    failure.epoch, failure.batch, failure.step = step.epoch, step.batch, step.step
    failure.images = step.ids
    failure.loss = None if step.loss is None else float(step.loss)
    if found.parameters:
        failure.parameter, failure.bad_parameters = found.parameters[-1], len(found.parameters)  # nearest to the loss
    elif nonfinite({"images": getattr(batch, "images", None)}):
        failure.module, failure.module_type = "images", type(batch).__name__
    elif watch.found is not None:
        failure.module, failure.module_type = watch.found.module, watch.found.kind
        if watch.found.rows and max(watch.found.rows) < len(step.ids):
            failure.images = tuple(step.ids[row] for row in watch.found.rows)
