"""The guard: ends a training whose numbers are none any more, and says where that began."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch

from imgrec.callbacks.nan_guard.divergence import Divergence
from imgrec.callbacks.nan_guard.failure import FAILURE, Failure, message, of_all
from imgrec.callbacks.nan_guard.replay import Replay, Step, can_replay, can_snapshot, take_snapshot
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.errors import TrainingFailedError, UserError
from imgrec.models.utils.nonfinite import FirstNonfinite, nonfinite
from imgrec.runs.checkpoints import write_checkpoint
from imgrec.runs.summary import write_json
from imgrec.tasks.callback import Callback
from imgrec.utils.checks import at_least_one

logger = logging.getLogger(__name__)

LAST_GOOD = "last_good.ckpt"


class NaNGuard(Callback):
    """Ends training when the loss is NaN or infinite, or diverges; says which layer and which images began it.

    The losses stay on the device and are looked at every so many steps, at the end of an epoch and before every
    checkpoint: no step waits for the device, and no checkpoint is written of weights that are no numbers. Every so many
    steps, a copy of the training's state is kept in the memory of the CPU. When a loss or a weight is bad, the steps
    since that copy are done once more, one by one and watched: they draw the same numbers again.

    Where the weights are sharded there is no such copy, and only the step is found; with a data module of one's own,
    whose batches are no function of position, there is the copy, and only the step is found.

    Training then ends with one message and exit status 3. The run folder holds ``failure.json`` and the copy as
    ``checkpoints/last_good.ckpt``, from which `imgrec fit --ckpt_path` goes on.

    Args:
        every_n_steps: how often the losses are looked at.
        factor: a loss above so many times its running median is too high; ``null`` accepts any finite loss.
        for_steps: how many steps in a row it has to be.
        window: how many losses the median is of.

    Raises:
        UserError: a number that cannot be.
        TrainingFailedError: while training; what has been found.

    Example::

        trainer:
          callbacks:
            - {class_path: NaNGuard, factor: 10, for_steps: 20}
    """

    def __init__(
        self, every_n_steps: int = 100, factor: float | None = 10.0, for_steps: int = 20, window: int = 100
    ) -> None:
        at_least_one("NaNGuard", every_n_steps=every_n_steps, for_steps=for_steps)
        if factor is not None and factor <= 1:
            raise UserError(f"NaNGuard: `factor` is above 1, or null, got {factor}.")
        if window < 20:
            raise UserError(f"NaNGuard: `window` is 20 losses or more, got {window}.")
        self.every_n_steps = every_n_steps
        self.rule = None if factor is None else Divergence(factor, for_steps, window)
        self._steps: list[Step] = []
        self._judged = 0
        self._between = True
        self._begun = False
        self._busy = False
        self._snapshot: dict[str, Any] | None = None
        self._modes: dict[str, bool] = {}
        self._watch: FirstNonfinite | None = None

    # ---------------------------------------------------------------- when

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with nothing kept."""
        self._steps, self._judged, self._between, self._begun, self._snapshot = [], 0, True, False, None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: look at the losses where it is time to, and keep the state."""
        if self._between and (not self._begun or len(self._steps) >= self.every_n_steps):
            self._look(trainer, pl_module)
            self._keep(trainer, pl_module)
        ids = tuple(getattr(batch, "ids", ()))
        self._steps.append(Step(trainer.current_epoch, batch_idx, trainer.global_step, ids))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss, without reading it; at the end of an epoch, look."""
        self._steps[-1].loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        self._between = not trainer.fit_loop._should_accumulate()
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._look(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of what was kept."""
        self._look(trainer, pl_module)
        self._steps, self._judged, self._begun, self._snapshot = [], 0, False, None

    # ---------------------------------------------------------------- the state

    def state_dict(self) -> dict[str, Any]:
        """What the running median is of."""
        return {"rule": None if self.rule is None else self.rule.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        if self.rule is not None and state_dict["rule"] is not None:
            self.rule.load_state_dict(state_dict["rule"])

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Look before anything is written over a good checkpoint."""
        if self._busy or not self._begun:
            return
        self._look(trainer, pl_module)
        if self.state_key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][self.state_key] = self.state_dict()

    def _keep(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._steps, self._judged, self._begun = [], 0, True
        if not can_snapshot(trainer):
            return
        self._modes = {name: part.training for name, part in module.named_modules()}
        self._busy = True
        try:
            self._snapshot = take_snapshot(trainer)
        finally:
            self._busy = False

    def on_model_changed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the copy of the state, and take one, where the network was changed between two steps.

        Steps of before cannot be repeated in the network of now.
        """
        if self._begun:
            self._look(trainer, pl_module)
            begun = [step for step in self._steps[-1:] if step.loss is None]
            self._keep(trainer, pl_module)
            self._steps = begun

    # ---------------------------------------------------------------- the look

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        new = [step for step in self._steps[self._judged :] if step.loss is not None]
        self._judged = len(self._steps)
        if not new:
            return
        mine = torch.stack([step.loss.detach().float() for step in new if step.loss is not None])
        losses: Any = trainer.strategy.reduce(mine, reduce_op="mean")  # a NaN of one process is one of all
        for step, loss in zip(new, losses.tolist(), strict=True):
            if not math.isfinite(loss):
                self._fail(trainer, module, "loss", step, loss)
            if self.rule is not None and self.rule.update(loss):
                self._fail(trainer, module, "divergence", step, loss)
        if nonfinite(dict(module.named_parameters())):
            self._fail(trainer, module, "weights", new[-1], losses.tolist()[-1])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: torch.Tensor) -> None:
        """While steps are repeated: is it this loss?"""
        if self._watch is not None:
            bad = not bool(torch.isfinite(loss.detach()).all())
            if trainer.strategy.reduce_boolean_decision(bad, all=False):
                raise _Found("loss", [])

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """While steps are repeated: is it these gradients? A gradient scaler passes over steps that overflow."""
        if self._watch is not None and getattr(trainer.precision_plugin, "scaler", None) is None:
            bad = nonfinite({name: p.grad for name, p in pl_module.named_parameters()})
            if trainer.strategy.reduce_boolean_decision(bool(bad), all=False):
                raise _Found("gradient", bad)

    # ---------------------------------------------------------------- the end

    def _fail(self, trainer: pl.Trainer, module: pl.LightningModule, kind: str, step: Step, loss: float) -> None:
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
        failure = of_all(trainer.world_size, failure)
        if folder is not None:
            write_json(folder / FAILURE, asdict(failure))
        if not trainer.is_global_zero:
            raise SystemExit(0)  # the first process says it
        raise TrainingFailedError(message(failure, folder))

    def _repeat(
        self, trainer: pl.Trainer, module: pl.LightningModule, snapshot: dict[str, Any], failure: Failure
    ) -> None:
        """Do the steps since the snapshot once more, and fill in where the first bad number is."""
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


def _fill(failure: Failure, found: _Found, step: Step, watch: FirstNonfinite, batch: Any) -> None:
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
