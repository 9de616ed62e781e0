"""Quantization-aware training: int8 rounding of weights and activations from a step of training."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from imgrec.callbacks.augmentation import ImageSizeSchedule
from imgrec.callbacks.compatibility import count_steps, reject_lightning_averaging, require_whole_weights
from imgrec.callbacks.compression.model_surgery import apply_surgery
from imgrec.callbacks.compression.structured_pruning import StructuredPruning
from imgrec.callbacks.monitoring.layer_statistics import LayerStatistics
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.errors import UserError
from imgrec.models import Classifier
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback
from imgrec.tasks.collectives import broadcast_buffers
from imgrec.utils.ranges import ClosedUnitInterval, RightOpenUnitInterval, check_ranges

logger = logging.getLogger(__name__)
inform = rank_zero_only(logger.info)


class QAT(Callback):
    """Quantization-aware training, which rounds weights and activations as int8 does from a fraction of training.

    The trained parameters, the state of the optimizer, the average of :class:`EMA` and the masks of :class:`Pruning`
    stay. The best checkpoint and early stopping are reset at the first rounded step. Observers update the bounds of the
    activations from every batch, as batch norm updates its statistics, until they are frozen. Everything is in the
    checkpoint, and a resumed run is exact. The model is rounded in float32, also in mixed precision, and is no longer
    compiled.

    The model folder of the run contains the model in floating point with its bounds. `imgrec.load(run, quantized=True)`
    returns it in int8. ``exports/onnx-int8-qat`` in the run folder is an ONNX file in QDQ format, for the int8 kernels
    of ONNX Runtime.

    Args:
        start: Fraction of training at which rounding starts. Use 0 for a trained model. Defaults to 0.5.
        freeze_observers: Fraction of training from which the bounds of the activations are frozen. Defaults to 0.8.
        freeze_batchnorm: Fraction of training from which batch norm uses and keeps its running statistics, as the int8
            model does. Defaults to 0.8.

    Raises:
        UserError: If an argument is out of range, or if the precision of the weights is not float32.
        UserError: If the model has no layer for int8, cannot be traced, or draws random numbers other than dropout.
        UserError: If another callback changes the image size, observes layers or removes channels after ``start``.
        UserError: If the strategy shards the weights, or if a callback other than EMA averages them.

    Example::

        trainer:
          callbacks:
            - {class_path: QAT, start: 0.5}

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", arXiv 1712.05877; Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference",
    arXiv 1806.08342 (freezing batch norm).
    """

    @check_ranges
    def __init__(
        self,
        start: RightOpenUnitInterval = 0.5,
        freeze_observers: ClosedUnitInterval = 0.8,
        freeze_batchnorm: ClosedUnitInterval = 0.8,
    ) -> None:
        for name, value in {"freeze_observers": freeze_observers, "freeze_batchnorm": freeze_batchnorm}.items():
            if value < start:
                raise UserError(f"QAT.{name}: expected a value of at least start {start:g}, got {value}.")
        if freeze_observers == start:
            raise UserError(f"QAT.freeze_observers: expected a value above start {start:g}, got {freeze_observers:g}.")
        self.start = start
        self.freeze_observers = freeze_observers
        self.freeze_batchnorm = freeze_batchnorm
        self._steps: tuple[int, int, int] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the strategy, the precision and the other callbacks."""
        if stage != TrainerFn.FITTING:
            return
        self._steps = None
        require_whole_weights(trainer, "QAT")
        reject_lightning_averaging(trainer, "QAT")
        if str(trainer.precision).endswith("-true") and trainer.precision != "32-true":
            raise UserError(
                f"trainer.precision: expected 32-true or a mixed precision with QAT, got {trainer.precision}."
            )
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            self._check_callback(each)

    def _check_callback(self, callback: pl.Callback) -> None:
        reason = None
        if isinstance(callback, ImageSizeSchedule) and callback.until > self.start:
            reason = (
                f"expected a constant image size from the start of QAT at {self.start:g} of training, "
                f"got changes until {callback.until:g}"
            )
        elif isinstance(callback, LayerStatistics):
            reason = (
                "expected no statistics of layers together with QAT, because the traced model does not call its layers"
            )
        elif isinstance(callback, StructuredPruning) and callback.rounds.last >= self.start:
            reason = (
                f"expected the last round before the start of QAT at {self.start:g} of training, got "
                f"{callback.rounds.last:g}"
            )
        if reason is not None:
            raise UserError(f"trainer.callbacks.{type(callback).__name__}: {reason}.")

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that a copy of the model can be quantized."""
        model = getattr(pl_module, "model", None)
        if not isinstance(model, Classifier):
            raise UserError("QAT: expected a task whose `model` is an imgrec.Classifier.")
        if getattr(pl_module, "reads_layers", False):
            raise UserError(
                "QAT: expected a distillation of logits or features, got one of single layers, which a traced model "
                "does not call."
            )
        self._steps = self._positions(trainer)
        if isinstance(model, QuantizedClassifier):
            return
        try:
            with torch.compiler.set_stance("force_eager"):
                quantized = QuantizedClassifier(copy.deepcopy(model), *_input_shape(pl_module))
        except UserError as error:
            raise UserError(f"QAT: {error}") from error
        for name, reason in quantized.float_layers.items():
            inform("QAT: %s stays in floating point: %s", name, reason)

    def _positions(self, trainer: pl.Trainer) -> tuple[int, int, int]:
        steps = count_steps(trainer, "QAT.start")
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return 0, steps, steps
        first = round(self.start * steps)
        if first >= steps:
            raise UserError(f"QAT.start: expected a step before the last, got {self.start:g} of {steps} steps.")
        return first, round(self.freeze_observers * steps), round(self.freeze_batchnorm * steps)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the model, if the trainer has no run recorder."""
        if self._steps is None:
            self.validate_model(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start to round, freeze the observers or freeze batch norm between two steps, if it is due."""
        assert self._steps is not None
        task: Any = pl_module
        step, (first, bounds, norms) = trainer.global_step, self._steps
        if step >= first and not isinstance(task.model, QuantizedClassifier):
            apply_surgery(trainer, pl_module, lambda model: self._swap(task, model, batch.images))
            trainer.print(
                f"quantization-aware from step {step} on: {len(task.model.ranges)} tensors are rounded to int8"
            )
        if isinstance(task.model, QuantizedClassifier):
            task.model.set_observer_mode("average" if step < bounds else "no")
            task.model.freeze_norms = step >= norms

    def _swap(self, task: Any, model: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(model, Classifier)
        task.model = QuantizedClassifier(model, *_input_shape(task))
        task.model.calibrate(images)
        broadcast_buffers(task.model)  # every process calibrated with a different batch
        return {}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the number of rounded tensors into the summary."""
        folder, model = run_folder(trainer), getattr(pl_module, "model", None)
        if folder is not None and isinstance(model, QuantizedClassifier):
            update_summary(folder, {"qat": {"tensors": len(model.ranges), "floating_point": model.float_layers}})


def _input_shape(pl_module: pl.LightningModule) -> tuple[int, int]:
    task: Any = pl_module
    return task.facts.channels, task.facts.image_size
