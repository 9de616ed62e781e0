"""BaseTask: the few hooks that an experiment is made of, and the steps that call them."""

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
from imgrec.optim.schedules.scheduler import FollowedSchedule
from imgrec.registry import Spec, Specs
from imgrec.tasks.accumulation import AccumulatedSamples, scale_gradients
from imgrec.tasks.building import BuiltTask
from imgrec.tasks.callback import imgrec_callbacks
from imgrec.tasks.collectives import first_buffers, on_first, process_count
from imgrec.tasks.epoch_metrics import directions_of
from imgrec.tasks.epoch_predictions import EpochBuffer, EpochPredictions, RunningMeans
from imgrec.tasks.evaluation_weights import agree_on_weights, keep_evaluated, swap_to_eval, swap_to_train
from imgrec.tasks.plain_batches import is_pair, plain_batch, plain_class_names, size_of_data
from imgrec.tasks.sam_step import loss_scale, sam_loss
from imgrec.tasks.single_image import refuse_single_image
from imgrec.trust import in_own_scope
from imgrec.types import Batch, StepOutput, blank_batch

logger = logging.getLogger(__name__)


class BaseTask(BuiltTask):
    """A LightningModule of a few hooks; one override is one research idea.

    The hooks: ``build_model``, ``build_loss``, ``build_regularizers``, ``build_metrics``, ``configure_optimizers`` and
    ``model_step``, the one step that training, validation, test and prediction share. Everything is built once the
    data is known, in ``configure_model``; what the data said (``facts``) becomes a hyper-parameter, so that a
    checkpoint loads with no further argument.

    Args:
        optimizer: a spec of :data:`imgrec.optim.OPTIMIZERS`, with ``lr``, ``weight_decay``, ``layer_decay`` beside it.
        schedule: a spec of :data:`imgrec.optim.SCHEDULES`, in fractions of training.
        regularizers: specs of :data:`imgrec.regularizers.REGULARIZERS`, each with a ``weight`` and on request a
            ``ramp``.
        facts: what the data said, as :meth:`imgrec.types.DataFacts.to_dict` gives it. Left out, the data module is
            asked; a checkpoint fills it in.
        load_weights: whether the specs' pretrained weights are loaded. A checkpoint says no: it brings its own.
        channels_last: whether weights and images lie pixel by pixel in memory, which convolutions are often faster
            with. ``auto``: `imgrec fit` measures it, and writes what it chose into the run's config; elsewhere, no.
        compile: ``true``, or the arguments of ``torch.compile``, such as ``{mode: reduce-overhead}``: the network is
            compiled at its first batch, which takes a minute or more. Names in checkpoints stay.
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
        self.predictions: EpochPredictions | None = None
        self.total_steps: int | None = None
        self.lr_scaling: LearningRateScaling | None = None
        self.accumulated = AccumulatedSamples()
        self._epoch = EpochBuffer()
        self._running = RunningMeans()
        self._batch_size = 1
        check_optimizer(optimizer, "model.optimizer")
        check_schedule(schedule, "model.schedule")

    # ---------------------------------------------------------------- what a researcher overrides

    @abstractmethod
    def model_step(self, batch: Batch) -> StepOutput:
        """From a batch to logits and features."""

    def compute_loss(self, output: StepOutput) -> Tensor:
        """The loss of one training step, without the regularizers."""
        loss: Tensor = self.loss(output.logits, output.targets)
        return loss

    @in_own_scope
    def configure_optimizers(self) -> Any:
        """The optimizer and its schedule, stepped once an optimizer step."""
        steps = self.trainer.estimated_stepping_batches
        if steps in (float("inf"), -1):
            raise UserError("a schedule needs an end of training: set trainer.max_epochs or trainer.max_steps")
        self.total_steps = int(steps)
        refuse_single_image(self.model, self.facts, self.trainer.train_dataloader)
        optimizer = build_optimizer(self.optimizer_spec, self, "model.optimizer", self._effective_batch())
        if self._device_mesh is not None and isinstance(optimizer, OptimizerWrapper | EvalWeightsOptimizer):
            raise UserError(
                f"model.optimizer: {type(optimizer).__name__.lower()} copies the weights, and trainer.strategy: fsdp2 "
                "shares them out: take strategy: ddp."
            )
        self.lr_scaling = getattr(optimizer, "lr_scaling", None)
        if self.lr_scaling is not None:
            rank_zero_only(logger.info)(f"model.optimizer.lr: {self.lr_scaling}")
        agree_on_weights(self.trainer, optimizer, self.schedule_spec)
        schedule = build_schedule(self.schedule_spec, optimizer, self.total_steps, "model.schedule")
        schedule.set_directions(directions_of(self))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _effective_batch(self) -> int | None:
        """Images in an optimizer step; ``None`` where that is not one number."""
        trainer: Any = self.trainer
        size = getattr(trainer.train_dataloader, "batch_size", None)
        if size is None or any(isinstance(each, GradientAccumulationScheduler) for each in trainer.callbacks):
            return None
        return int(size * trainer.world_size * trainer.accumulate_grad_batches)

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the epoch has counted so far, and the weights that are evaluated, where those are others."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["imgrec"]["means"] = self._running.state_dict()
        keep_evaluated(self.trainer, self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network; go on with what the epoch has counted."""
        super().on_load_checkpoint(checkpoint)
        if means := checkpoint.get("imgrec", {}).get("means"):
            self._running.load_state_dict(means)

    # ---------------------------------------------------------------- the steps

    @property
    def progress(self) -> float:
        """The fraction of training that is done, in optimizer steps."""
        return self.trainer.global_step / self.total_steps if self.total_steps else 0.0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss and weighted penalties; each part is logged. A sharpness-aware optimizer gets that of a second pass."""
        batch = self._as_batch(batch, batch_idx)
        begins = batch_idx % self.trainer.accumulate_grad_batches == 0  # Lightning clears the gradients here
        self.accumulated.add(len(batch), begins)
        optimizer = self._sharpness_aware()
        if optimizer is None:
            return self._objective(batch)
        return sam_loss(
            optimizer,
            self.model,
            lambda: self._objective(batch),
            lambda: self._objective_again(batch),
            loss_scale(self.trainer),
        )

    def _objective_again(self, batch: Batch) -> Tensor:
        """What :meth:`_objective` gives, at the worst point near the weights, and not logged."""
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
        return next((found for each in self.trainer.optimizers if (found := sharpness_aware(each)) is not None), None)

    def _objective(self, batch: Batch, logged: bool = True) -> Tensor:
        """Loss and weighted penalties of one pass."""
        output = self.model_step(batch)
        loss = self.compute_loss(output)
        with scaled_losses(loss_scale(self.trainer)):
            penalty, parts = self.regularizers(output, self.model, self.progress)
        total: Tensor = loss + penalty
        count = len(batch)
        self._running.enter(self.current_epoch)
        self._running.add("train/loss", total, count)
        for name, value in parts.items():
            self._running.add(f"train/reg/{name}", value, count)
        if not output.targets.is_floating_point():  # the accuracy on mixed images would mean nothing
            self._running.add("train/acc", (output.logits.argmax(1) == output.targets).float().mean(), count)
        every = self.trainer.log_every_n_steps if logged else 0  # type: ignore[attr-defined]
        if every and (self.trainer.global_step + 1) % every == 0:  # the steps at which loggers are written to
            self.log("train/loss_step", total.detach(), batch_size=count)
        return total

    def on_train_epoch_end(self) -> None:
        """Log the epoch's means, and the weights of the losses as far as they are learned."""
        self.log_dict(self._running.take())  # over the samples of all processes already
        if isinstance(self.loss, WeightedSum):
            self.log_dict({f"train/weight/{name}": value for name, value in self.loss.learned_weights().items()})

    def on_validation_start(self) -> None:
        """Evaluate one and the same network: under DDP a forward pass does this, when a network is sharded nobody."""
        if self._device_mesh is not None:
            first_buffers(self.model)
        swap_to_eval(self.trainer)

    def on_validation_end(self) -> None:
        """Go on with the weights that are trained, where those are others."""
        swap_to_train(self.trainer)

    def on_train_start(self) -> None:
        """Train the weights that are trained, where a training goes on in the same process."""
        swap_to_train(self.trainer)

    def on_train_end(self) -> None:
        """Leave what is evaluated in the network; the last checkpoint is written."""
        swap_to_eval(self.trainer)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits."""
        self._keep(self._as_batch(batch, batch_idx, self.trainer.val_dataloaders))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Keep the logits."""
        self._keep(self._as_batch(batch, batch_idx, self.trainer.test_dataloaders))

    def predict_step(self, batch: Batch, batch_idx: int) -> StepOutput:
        """Return the output of the shared step."""
        return self.model_step(self._as_batch(batch, batch_idx))

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

    def on_validation_epoch_end(self) -> None:
        """Compute everything once, from the epoch's logits; a schedule may wait for it."""
        figures = self._evaluate("val")
        for each in self.trainer.lr_scheduler_configs if self._fitting and figures else ():
            if isinstance(each.scheduler, FollowedSchedule):
                (each.scheduler.check if self.trainer.sanity_checking else each.scheduler.observe)(figures)

    def on_test_epoch_end(self) -> None:
        """Compute everything once, from the epoch's logits."""
        self._evaluate("test")

    def _keep(self, batch: Batch) -> None:
        self._epoch.skip([name for name, _ in batch.skipped])
        if len(batch):
            output = self.model_step(batch)
            self._epoch.add(batch.ids, output.targets, output.logits)
        elif process_count() > 1:
            self.model_step(blank_batch(batch))  # the others take part in what a forward pass exchanges

    def _evaluate(self, split: str) -> dict[str, float]:
        self.predictions = self._epoch.take()
        # every process logs the same figures, so there is nothing to synchronise
        figures = {f"{split}/{name}": value for name, value in on_first(lambda: self._figures(split)).items()}
        self.log_dict(figures)
        return figures

    def _figures(self, split: str) -> dict[str, float]:
        if self.predictions is None:
            return {}
        self.predictions.check(split, self._images_in(split))
        logits, targets = self.predictions.logits, self.predictions.targets
        loss = self.loss(logits.to(self.device), targets.to(self.device))
        return {"loss": float(loss), **self.metrics(logits, targets)}

    def _images_in(self, split: str) -> int | None:
        """How many images an evaluation has to see; ``None`` where it is cut short, or nobody knows."""
        trainer: Any = self.trainer
        limit = {"val": trainer.limit_val_batches, "test": trainer.limit_test_batches}[split]
        sizes = getattr(trainer.datamodule, "split_sizes", None)
        if sizes is None or trainer.sanity_checking or limit != 1.0 or isinstance(limit, int):
            return None
        return sizes().get(split)  # type: ignore[no-any-return]
