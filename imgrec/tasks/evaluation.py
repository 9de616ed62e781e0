"""Validation, test and prediction of a task, with the evaluation weights of its optimizer."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch.optim import Optimizer

from imgrec.errors import UserError
from imgrec.optim.optimizers.averaged import EvalWeightsOptimizer, find_eval_weights_optimizer
from imgrec.optim.schedules.base import SCHEDULES
from imgrec.optim.schedules.scheduler import FollowedSchedule
from imgrec.registry import Spec
from imgrec.tasks.building import BuiltTask
from imgrec.tasks.callback import Callback
from imgrec.tasks.collectives import broadcast_buffers, process_count, run_on_rank_zero
from imgrec.tasks.epoch_predictions import EpochBuffer, PredictionSet
from imgrec.tasks.plain_batches import is_pair, plain_batch, size_of_data
from imgrec.types import Batch, StepOutput, blank_batch

logger = logging.getLogger(__name__)


class EvaluatedTask(BuiltTask):
    """Base class of tasks with the steps of validation, test and prediction.

    The logits of an epoch are collected, and all metrics are computed once from them.

    Args:
        *args: Arguments of :class:`imgrec.tasks.building.BuiltTask`.

    Attributes:
        predictions: Predictions of the last evaluated epoch, on the first process.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.predictions: PredictionSet | None = None
        self._epoch = EpochBuffer()
        self._batch_size = 1

    @abstractmethod
    def model_step(self, batch: Batch) -> StepOutput:
        """Compute logits and features of a batch."""

    def on_validation_start(self) -> None:
        """Set the evaluation weights, and the same buffers on every process of a sharded model.

        Without sharding, the forward pass of DDP broadcasts the buffers.
        """
        if self._device_mesh is not None:
            broadcast_buffers(self.model)
        swap_to_eval(self.trainer)

    def on_validation_end(self) -> None:
        """Restore the training weights."""
        swap_to_train(self.trainer)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Store the logits."""
        self._collect(self._as_batch(batch, batch_idx, self.trainer.val_dataloaders))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Store the logits."""
        self._collect(self._as_batch(batch, batch_idx, self.trainer.test_dataloaders))

    def predict_step(self, batch: Batch, batch_idx: int) -> StepOutput:
        """Return the output of the shared step."""
        return self.model_step(self._as_batch(batch, batch_idx))

    def on_validation_epoch_end(self) -> None:
        """Compute the loss and all metrics from the logits of the epoch, and pass them to the schedules."""
        metrics = self._evaluate("val")
        for each in self.trainer.lr_scheduler_configs if self._fitting and metrics else ():
            if isinstance(each.scheduler, FollowedSchedule):
                (each.scheduler.check if self.trainer.sanity_checking else each.scheduler.observe)(metrics)

    def on_test_epoch_end(self) -> None:
        """Compute the loss and all metrics from the logits of the epoch."""
        self._evaluate("test")

    def _as_batch(self, batch: Any, batch_idx: int, loader: Any = None) -> Batch:
        """Return a batch of a plain DataLoader as :class:`imgrec.types.Batch`.

        Args:
            batch: Batch, or pair of images and targets.
            batch_idx: Index of the batch in its epoch.
            loader: DataLoader of an evaluation, whose padding is removed. Defaults to no padding.

        Raises:
            UserError: If the batch is neither.
        """
        if isinstance(batch, Batch):
            return batch
        if not is_pair(batch):
            raise UserError(f"batch: expected a pair of tensors, images and targets, got {type(batch).__name__}.")
        if batch_idx == 0:
            self._batch_size = len(batch[0])
        trainer = self.trainer
        first = batch_idx * self._batch_size * trainer.world_size + trainer.global_rank
        size = None if loader is None else size_of_data(loader)
        return plain_batch(batch, first, self.current_epoch, trainer.world_size, size)

    def _collect(self, batch: Batch) -> None:
        self._epoch.skip([name for name, _ in batch.skipped])
        if len(batch):
            output = self.model_step(batch)
            self._epoch.add(batch.ids, output.targets, output.logits)
        elif process_count() > 1:
            self.model_step(blank_batch(batch))  # other processes wait for the collectives of the forward pass

    def _evaluate(self, split: str) -> dict[str, float]:
        self.predictions = self._epoch.gather()
        # every process logs the same values, so that no synchronization is required
        metrics = {f"{split}/{name}": value for name, value in run_on_rank_zero(lambda: self._metrics(split)).items()}
        self.log_dict(metrics)
        return metrics

    def _metrics(self, split: str) -> dict[str, float]:
        if self.predictions is None:
            return {}
        self.predictions.check(split, self._split_size(split))
        logits, targets = self.predictions.logits, self.predictions.targets
        loss = self.loss(logits.to(self.device), targets.to(self.device))
        return {"loss": float(loss), **self.metrics(logits, targets)}

    def _split_size(self, split: str) -> int | None:
        """Return the number of images of a split, or ``None`` if it is unknown or only a part is evaluated."""
        trainer: Any = self.trainer
        limit = {"val": trainer.limit_val_batches, "test": trainer.limit_test_batches}[split]
        sizes = getattr(trainer.datamodule, "split_sizes", None)
        if sizes is None or trainer.sanity_checking or limit != 1.0 or isinstance(limit, int):
            return None
        return sizes().get(split)  # type: ignore[no-any-return]


def configure_eval_weights(trainer: pl.Trainer, optimizer: Optimizer, schedule: Spec) -> None:
    """Decide before training whether the optimizer or a callback provides the evaluation weights.

    A warning is logged if the schedule decays the learning rate of an optimizer that replaces this decay.

    Raises:
        UserError: If both the optimizer and a callback average the weights.
    """
    found = find_eval_weights_optimizer(optimizer)
    if found is None:
        return
    averaging = next((each for each in trainer.callbacks if _averages(each)), None)  # type: ignore[attr-defined]
    if averaging is not None and found.averages_alone:
        raise UserError(
            f"trainer.callbacks: expected no {type(averaging).__name__} with the optimizer {type(found).__name__}, "
            "because both average the weights. Remove one of them."
        )
    found.swaps = averaging is None
    name, _ = SCHEDULES.parse(schedule, "model.schedule")
    if found.averages_alone and name != "constant":
        rank_zero_only(logger.warning)(
            "model.schedule: %s is designed for a constant learning rate, because its average replaces the decay, but "
            "%s decays the learning rate. Use {name: constant, warmup: 0.05}.",
            *(type(found).__name__, name),
        )


def _averages(callback: object) -> bool:
    return isinstance(callback, WeightAveraging) or (isinstance(callback, Callback) and callback.averages_weights)


def swap_to_eval(trainer: pl.Trainer) -> None:
    """Set the evaluation weights in the model while fitting."""
    if trainer.state.fn == TrainerFn.FITTING:
        for found in _eval_weights_optimizers(trainer):
            found.eval()


def swap_to_train(trainer: pl.Trainer) -> None:
    """Restore the training weights in the model while fitting."""
    if trainer.state.fn == TrainerFn.FITTING:
        for found in _eval_weights_optimizers(trainer):
            found.train()


def store_eval_weights(trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Replace the weights in the ``state_dict`` of a checkpoint by the evaluation weights.

    The training weights are in the state of the optimizer.
    """
    for found in _eval_weights_optimizers(trainer):
        if found.swaps and found._weights is None:
            names: dict[int, list[str]] = {}
            for name, parameter in module.named_parameters(remove_duplicate=False):
                names.setdefault(id(parameter), []).append(name)
            for trained, value in found.evaluated():
                for name in names.get(id(trained), ()):
                    checkpoint["state_dict"][name] = value


def _eval_weights_optimizers(trainer: pl.Trainer) -> list[EvalWeightsOptimizer]:
    return [found for each in trainer.optimizers if (found := find_eval_weights_optimizer(each)) is not None]
