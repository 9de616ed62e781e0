"""Repetition of the last steps of a training, which draw the same random numbers again.

Reason: a check of every layer adds 39 to 62 % to each step on a CPU, and one synchronization per layer on a GPU. Only
repeated steps are checked in this way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from imgrec.callbacks.checkpoints.last import reset_batch_counters
from imgrec.callbacks.seeding import PositionalSeeding
from imgrec.tasks.callback import imgrec_callbacks
from imgrec.types import Batch


@dataclass
class RecordedStep:
    """Batch of a training: position, counted from 0, ids of the images, and loss."""

    epoch: int
    batch: int
    step: int
    ids: tuple[str, ...]
    loss: Tensor | None = None


def can_snapshot(trainer: pl.Trainer) -> bool:
    """Return True if this process has all weights."""
    return isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)


def can_replay(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Return True if steps can be repeated: optimization is automatic, and batches depend on the position only."""
    return module.automatic_optimization and hasattr(trainer.train_dataloader, "batch_at")


def take_snapshot(trainer: pl.Trainer) -> dict[str, Any]:
    """Return a checkpoint between two optimizer steps as a copy in CPU memory."""
    checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
    found: dict[str, Any] = copy_to_cpu(checkpoint)
    reset_batch_counters(found["loops"]["fit_loop"], ended=False)
    return found


def copy_to_cpu(tree: Any) -> Any:
    """Return ``tree`` with a copy of every tensor on the CPU."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: copy_to_cpu(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple) and type(tree) in (list, tuple):
        return type(tree)(copy_to_cpu(value) for value in tree)
    return tree


class Replay:
    """Context that repeats steps from a snapshot.

    At its end the counters of the trainer are restored, but not its weights.

    Args:
        trainer: Trainer during training.
        module: Module of the training.
        snapshot: Result of :func:`take_snapshot` before the first of the steps. Its optimizer states are consumed.
        modes: Training mode of every module at that time, by name.
    """

    def __init__(
        self, trainer: pl.Trainer, module: pl.LightningModule, snapshot: dict[str, Any], modes: Mapping[str, bool]
    ) -> None:
        self.trainer = trainer
        self.module = module
        self.snapshot = snapshot
        self.modes = modes

    def __enter__(self) -> Replay:
        trainer, module, snapshot = self.trainer, self.module, self.snapshot
        loop: Any = trainer.fit_loop
        self._counters = (
            loop.epoch_progress.current.completed,
            loop.epoch_loop.batch_progress.current.ready,
            loop.epoch_loop.batch_progress.is_last_batch,
            self._steps.completed,
        )
        self._stage = trainer.state.stage
        trainer.training = True
        module.load_state_dict(snapshot.get("current_model_state", snapshot["state_dict"]))
        for callback in imgrec_callbacks(trainer):
            if state := snapshot.get("callbacks", {}).get(callback.state_key):
                callback.rewind(state)
        trainer.strategy.load_optimizer_state_dict(snapshot)
        for config, state in zip(trainer.lr_scheduler_configs, snapshot["lr_schedulers"], strict=True):
            config.scheduler.load_state_dict(state)
        plugin = trainer.precision_plugin
        if (state := snapshot.get(type(plugin).__qualname__)) is not None:
            plugin.load_state_dict(state)
        for name, part in module.named_modules():
            part.training = self.modes.get(name, part.training)
        module.zero_grad()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._loader: Any = data.train_dataloader()
        self._seeding = next((each for each in trainer.callbacks if isinstance(each, PositionalSeeding)), None)  # type: ignore[attr-defined]
        return self

    def __exit__(self, *_: object) -> None:
        loop: Any = self.trainer.fit_loop
        (
            loop.epoch_progress.current.completed,
            loop.epoch_loop.batch_progress.current.ready,
            loop.epoch_loop.batch_progress.is_last_batch,
            self._steps.completed,
        ) = self._counters
        self.trainer.state.stage = self._stage

    @property
    def _steps(self) -> Any:
        return self.trainer.fit_loop.epoch_loop.automatic_optimization.optim_progress.optimizer.step.total

    def batch_of(self, step: RecordedStep) -> Batch:
        """Return the batch of a step on the device, augmented."""
        trainer = self.trainer
        loop: Any = trainer.fit_loop
        loop.epoch_progress.current.completed = step.epoch
        loop.epoch_loop.batch_progress.current.ready = step.batch + 1
        loop.epoch_loop.batch_progress.is_last_batch = step.batch + 1 == trainer.num_training_batches
        self._steps.completed = step.step
        batch: Any = trainer.precision_plugin.convert_input(self._loader.batch_at(step.epoch, step.batch))
        batch = self.module._on_before_batch_transfer(batch, dataloader_idx=0)
        found: Batch = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
        if self._seeding is not None:
            self._seeding.on_train_batch_start(trainer, self.module, found, step.batch)
        return found

    def run(self, step: RecordedStep, batch: Batch) -> None:
        """Repeat one step as Lightning runs it: forward, backward, and the optimizer if it is due."""
        loop = self.trainer.fit_loop.epoch_loop
        arguments = loop._build_kwargs(OrderedDict(), batch, step.batch)
        with torch.compiler.set_stance("force_eager"):
            loop.automatic_optimization.run(self.trainer.optimizers[0], step.batch, arguments)
        loop.update_lr_schedulers("step", update_plateau_schedulers=False)
