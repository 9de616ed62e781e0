"""BaseTask: a LightningModule with one hook for each part of an experiment."""

from __future__ import annotations

import logging
from abc import abstractmethod
from typing import Any, Literal

from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch import Tensor

from imgrec.errors import UserError
from imgrec.losses import WeightedSum
from imgrec.models.utils.loss_scale import scaled_losses
from imgrec.optim import LearningRateScaling, build_optimizer, build_schedule, check_optimizer, check_schedule
from imgrec.optim.optimizers.averaged import EvalWeightsOptimizer
from imgrec.optim.optimizers.sam import SharpnessAware, sharpness_aware
from imgrec.optim.optimizers.wrapper import OptimizerWrapper
from imgrec.registry import Spec, Specs
from imgrec.tasks.accumulation import AccumulatedSamples, scale_gradients
from imgrec.tasks.callback import imgrec_callbacks
from imgrec.tasks.compatibility import check_smallest_batch
from imgrec.tasks.epoch_metrics import directions_of
from imgrec.tasks.epoch_predictions import RunningMeans
from imgrec.tasks.evaluation import (
    EvaluatedTask,
    configure_eval_weights,
    store_eval_weights,
    swap_to_eval,
    swap_to_train,
)
from imgrec.tasks.plain_batches import plain_class_names
from imgrec.tasks.sam_step import loss_scale, sam_loss
from imgrec.trust import in_own_scope
from imgrec.types import Batch, StepOutput

logger = logging.getLogger(__name__)


class BaseTask(EvaluatedTask):
    """Base class of tasks: a LightningModule in which one overridden hook implements one research idea.

    The hooks are ``build_model``, ``build_loss``, ``build_regularizers``, ``build_metrics``, ``configure_optimizers``
    and ``model_step``. Training, validation, test and prediction share ``model_step``. All parts are built in
    ``configure_model`` from the facts of the data. The facts become a hyper-parameter, so that a checkpoint loads
    without further arguments.

    Args:
        optimizer: Spec of :data:`imgrec.optim.OPTIMIZERS`, with ``lr``, ``weight_decay`` and ``layer_decay``.
            Defaults to ``adamw``.
        schedule: Spec of :data:`imgrec.optim.SCHEDULES`, in fractions of training. Defaults to ``cosine``.
        regularizers: Specs of :data:`imgrec.regularizers.REGULARIZERS`, each with a ``weight`` and an optional
            ``ramp``. Defaults to none.
        facts: Result of :meth:`imgrec.types.DataFacts.to_dict`. Defaults to the facts of the data module or of the
            checkpoint.
        load_weights: False to skip the pretrained weights of the specs, as for a checkpoint. Defaults to True.
        channels_last: True to store weights and images in channels-last order, in which convolutions are often
            faster. ``auto`` lets `imgrec fit` measure both orders and store its choice in the config of the run. For
            other callers ``auto`` is False. Defaults to ``auto``.
        compile: True, or arguments of ``torch.compile`` such as ``{mode: reduce-overhead}``, to compile the model at
            its first batch, which takes a minute or more. The names in checkpoints do not change. Defaults to False.
        num_classes: Number of classes, for a DataLoader without a data module.
        class_names: Names of the classes, for a DataLoader without a data module. Defaults to those of its data set.
    """

    def __init__(
        self,
        optimizer: Spec = "adamw",
        schedule: Spec = "cosine",
        regularizers: Specs | None = None,
        facts: dict[str, Any] | None = None,
        load_weights: bool = True,
        channels_last: bool | Literal["auto"] = "auto",
        compile: bool | dict[str, Any] = False,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        names = plain_class_names(num_classes, class_names)
        super().__init__(regularizers, facts, load_weights, channels_last, compile, names)
        self.save_hyperparameters()
        self.optimizer_spec = optimizer
        self.schedule_spec = schedule
        self.total_steps: int | None = None
        self.lr_scaling: LearningRateScaling | None = None
        self.accumulated = AccumulatedSamples()
        self._running = RunningMeans()
        self._uses_sam: bool | None = None
        check_optimizer(optimizer, "model.optimizer")
        check_schedule(schedule, "model.schedule")

    # ---------------------------------------------------------------- hooks

    def setup(self, stage: str) -> None:
        """Take the facts of the data module.

        Raises:
            UserError: If the data has other classes than the model.
        """
        super().setup(stage)
        self._uses_sam = None

    @abstractmethod
    def model_step(self, batch: Batch) -> StepOutput:
        """Compute logits and features of a batch."""

    def compute_loss(self, output: StepOutput) -> Tensor:
        """Compute the loss of one training step, without the regularizers."""
        loss: Tensor = self.loss(output.logits, output.targets)
        return loss

    @in_own_scope
    def configure_optimizers(self) -> Any:
        """Build the optimizer and its schedule, which is updated at every optimizer step.

        Raises:
            UserError: If the training has no last step, if batch normalization does not accept the smallest batch, or
                if the optimizer does not support the strategy.
        """
        steps = self.trainer.estimated_stepping_batches
        if steps in (float("inf"), -1):
            raise UserError("model.schedule: expected a last step. Set trainer.max_epochs or trainer.max_steps.")
        self.total_steps = int(steps)
        check_smallest_batch(self.model, self.facts, self.trainer.train_dataloader)
        optimizer = build_optimizer(self.optimizer_spec, self, "model.optimizer", self._effective_batch())
        if self._device_mesh is not None and isinstance(optimizer, OptimizerWrapper | EvalWeightsOptimizer):
            raise UserError(
                "model.optimizer: expected an optimizer without a copy of the weights, because trainer.strategy is "
                f"fsdp2, got {type(optimizer).__name__.lower()}. Use strategy: ddp."
            )
        self.lr_scaling = getattr(optimizer, "lr_scaling", None)
        if self.lr_scaling is not None:
            rank_zero_only(logger.info)(f"model.optimizer.lr: {self.lr_scaling}")
        configure_eval_weights(self.trainer, optimizer, self.schedule_spec)
        schedule = build_schedule(self.schedule_spec, optimizer, self.total_steps, "model.schedule")
        schedule.set_directions(directions_of(self))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _effective_batch(self) -> int | None:
        """Return the number of images per optimizer step, or ``None`` if it is not constant."""
        trainer: Any = self.trainer
        size = getattr(trainer.train_dataloader, "batch_size", None)
        if size is None or any(isinstance(each, GradientAccumulationScheduler) for each in trainer.callbacks):
            return None
        return int(size * trainer.world_size * trainer.accumulate_grad_batches)

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the running means of the epoch, and replace the weights by the evaluation weights."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["imgrec"]["means"] = self._running.state_dict()
        store_eval_weights(self.trainer, self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the architecture of a checkpoint, and load the running means of its epoch."""
        super().on_load_checkpoint(checkpoint)
        if means := checkpoint.get("imgrec", {}).get("means"):
            self._running.load_state_dict(means)

    # ---------------------------------------------------------------- training

    @property
    def progress(self) -> float:
        """Completed fraction of training, in optimizer steps."""
        return self.trainer.global_step / self.total_steps if self.total_steps else 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Compute and log the loss and the weighted penalties, with a second pass for a sharpness-aware optimizer."""
        batch = self._as_batch(batch, batch_idx)
        is_first = batch_idx % self.trainer.accumulate_grad_batches == 0  # Lightning clears the gradients here
        self.accumulated.add(len(batch), is_first)
        optimizer = self._sharpness_aware()
        if optimizer is None:
            return self._objective(batch)
        return sam_loss(
            optimizer,
            self.model,
            lambda: self._objective(batch),
            lambda: self._second_objective(batch),
            loss_scale(self.trainer),
        )

    def _second_objective(self, batch: Batch) -> Tensor:
        """Compute the objective at the perturbed weights, without logging."""
        for callback in imgrec_callbacks(self.trainer):
            callback.on_sam_second_pass(self.trainer, self)
        with self._running.paused():
            return self._objective(batch, logged=False)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Compute the gradients, weighted by samples over the batches of an optimizer step.

        A sharpness-aware optimizer then restores the weights.
        """
        trainer, weight = self.trainer, self.accumulated.weight
        super().backward(loss if weight == 1 else loss * weight, *args, **kwargs)
        last = not trainer.strategy.handles_gradient_accumulation and not trainer.fit_loop._should_accumulate()
        if last and (factor := self.accumulated.correction(trainer.accumulate_grad_batches)) != 1:
            scale_gradients(self.parameters(), factor)
        if (optimizer := self._sharpness_aware()) is not None:
            optimizer.restore()

    def _sharpness_aware(self) -> SharpnessAware | None:
        """Return the sharpness-aware optimizer. Without one, only the first step of a training searches for it."""
        if self._uses_sam is False:
            return None
        found = next((sam for each in self.trainer.optimizers if (sam := sharpness_aware(each)) is not None), None)
        self._uses_sam = found is not None
        return found

    def _objective(self, batch: Batch, logged: bool = True) -> Tensor:
        """Compute the loss and the weighted penalties of one pass."""
        output = self.model_step(batch)
        loss = self.compute_loss(output)
        with scaled_losses(loss_scale(self.trainer)):
            penalty, parts = self.regularizers(output, self.model, self.progress)
        total: Tensor = loss + penalty
        count = len(batch)
        self._running.start_epoch(self.current_epoch)
        self._running.add("train/loss", total, count)
        for name, value in parts.items():
            self._running.add(f"train/reg/{name}", value, count)
        if not output.targets.is_floating_point():  # accuracy is not defined for mixed images
            self._running.add("train/acc", (output.logits.argmax(1) == output.targets).float().mean(), count)
        every = self.trainer.log_every_n_steps if logged else 0  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:  # loggers write at these steps only
            self.log("train/loss_step", total.detach(), batch_size=count)
        return total

    def on_train_epoch_end(self) -> None:
        """Log the means of the epoch and the learned weights of the losses."""
        self.log_dict(self._running.gather())  # over the samples of all processes
        if isinstance(self.loss, WeightedSum):
            self.log_dict({f"train/weight/{name}": value for name, value in self.loss.learned_weights().items()})

    def on_train_start(self) -> None:
        """Restore the training weights if a previous training in this process left the evaluation weights."""
        swap_to_train(self.trainer)

    def on_train_end(self) -> None:
        """Set the evaluation weights. The last checkpoint is written before."""
        swap_to_eval(self.trainer)
