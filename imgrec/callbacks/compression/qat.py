"""Quantization-aware training: from a step on, the network rounds as int8 does, and learns to do well so."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from imgrec.callbacks.augmentation import ImageSizeSchedule
from imgrec.callbacks.compression.model_surgery import apply_surgery
from imgrec.callbacks.compression.structured_pruning import StructuredPruning
from imgrec.callbacks.monitoring.layer_statistics import LayerStatistics
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.errors import UserError
from imgrec.models import Classifier
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback
from imgrec.tasks.collectives import first_buffers

logger = logging.getLogger(__name__)
inform = rank_zero_only(logger.info)


class QAT(Callback):
    """From a fraction of training on, rounds weights and activations as int8 does, so that the network learns with it.

    What is trained are the same parameters; the optimizer's state, the average of :class:`EMA` and the masks of
    :class:`Pruning` go on. The best checkpoint and early stopping begin anew at that step. The bounds of activations
    follow what passes, as batch norm's statistics do, until they are frozen. All of it is in the checkpoint, and a
    resumed run goes on with it, exactly. The network is rounded in float32, under mixed precision, too, and no longer
    compiled.

    The run's model folder holds the network in floating point with its bounds; `imgrec.load(run, quantized=True)` gives
    it in int8, and ``exports/onnx-int8-qat`` in the run folder is an ONNX file in the QDQ format, which ONNX Runtime
    runs with int8 kernels.

    Args:
        start: the fraction of training at which rounding begins; 0 for a network that was trained before.
        freeze_observers: the fraction from which on the bounds of the activations stay.
        freeze_batchnorm: the fraction from which on batch norm uses its running statistics, as the int8 network does,
            and leaves them.

    Raises:
        UserError: a number that cannot be; a network that cannot be traced, that draws random numbers beside dropout's,
            or has no layer for int8; images that change their size, layers that are watched or pruned away later; a
            precision of the weights other than float32; a strategy that shards them; an average other than EMA's.

    Example::

        trainer:
          callbacks:
            - {class_path: QAT, start: 0.5}

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", arXiv 1712.05877; Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference",
    arXiv 1806.08342 (freezing batch norm).
    """

    def __init__(self, start: float = 0.5, freeze_observers: float = 0.8, freeze_batchnorm: float = 0.8) -> None:
        if not 0 <= start < 1:
            raise UserError(f"QAT: `start` is a fraction of training, from 0 to below 1, got {start}.")
        for name, value in {"freeze_observers": freeze_observers, "freeze_batchnorm": freeze_batchnorm}.items():
            if not start <= value <= 1:
                raise UserError(f"QAT: `{name}` is a fraction of training from `start`, {start:g}, to 1, got {value}.")
        if freeze_observers == start:
            raise UserError(f"QAT: from `start` to `freeze_observers` the bounds are learnt; both are {start:g}.")
        self.start = start
        self.freeze_observers = freeze_observers
        self.freeze_batchnorm = freeze_batchnorm
        self._steps: tuple[int, int, int] | None = None

    # ---------------------------------------------------------------- begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what does not go together."""
        if stage != TrainerFn.FITTING:
            return
        self._steps = None
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                f"trainer.callbacks: QAT traces the whole network, and {type(trainer.strategy).__name__} shards it; "
                "take strategy: ddp, or leave QAT out"
            )
        if str(trainer.precision).endswith("-true") and trainer.precision != "32-true":
            raise UserError(
                f"trainer.precision: QAT rounds weights in float32, and {trainer.precision} has no such weights; take "
                "32-true, or a mixed precision"
            )
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            self._refuse(each)

    def _refuse(self, callback: pl.Callback) -> None:
        reason = None
        if isinstance(callback, WeightAveraging | StochasticWeightAveraging):
            reason = "averages a network without the bounds of the activations; QAT works with EMA"
        elif isinstance(callback, ImageSizeSchedule) and callback.until > self.start:
            reason = (
                f"changes the size of the images until {callback.until:g} of training, and the network that QAT traces "
                f"at {self.start:g} takes one size: let it end before"
            )
        elif isinstance(callback, LayerStatistics):
            reason = (
                "watches layers, and a traced network calls none of them; leave it out of the run that ends in int8"
            )
        elif isinstance(callback, StructuredPruning) and callback.rounds.last >= self.start:
            reason = (
                f"takes channels out until {callback.rounds.last:g} of training, and QAT rounds from {self.start:g} "
                "on: the bounds of int8 are of the layers as they are; prune first, and let QAT start later"
            )
        if reason is not None:
            raise UserError(f"trainer.callbacks: {type(callback).__name__} {reason}")

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a network that cannot be quantized; called before anything is written."""
        model = getattr(pl_module, "model", None)
        if not isinstance(model, Classifier):
            raise UserError("trainer.callbacks: QAT takes a task whose `model` is an imgrec Classifier")
        if getattr(pl_module, "reads_layers", False):
            raise UserError(
                "trainer.callbacks: QAT traces the network, and what its single layers give cannot be learnt from then "
                "on; distil logits or features without `layers`"
            )
        self._steps = self._positions(trainer)
        if isinstance(model, QuantizedClassifier):
            return
        try:
            with torch.compiler.set_stance("force_eager"):
                rehearsed = QuantizedClassifier(copy.deepcopy(model), *_shape(pl_module))
        except UserError as error:
            raise UserError(f"trainer.callbacks: QAT: {error}") from error
        for name, reason in rehearsed.left.items():
            inform("QAT: %s stays in floating point: %s", name, reason)

    def _positions(self, trainer: pl.Trainer) -> tuple[int, int, int]:
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps) or steps < 0:
            raise UserError("QAT: `start` is a fraction of training: set trainer.max_epochs or trainer.max_steps.")
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return 0, int(steps), int(steps)  # a rehearsal
        first = round(self.start * steps)
        if first >= steps:
            raise UserError(f"QAT: `start: {self.start:g}` of {int(steps)} steps leaves no step to learn in.")
        return first, round(self.freeze_observers * steps), round(self.freeze_batchnorm * steps)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the network, where the run's recorder has not asked yet."""
        if self._steps is None:
            self.validate_model(trainer, pl_module)

    # ---------------------------------------------------------------- the steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: begin to round, and freeze what is learnt, where it is time to."""
        assert self._steps is not None
        task: Any = pl_module
        step, (first, bounds, norms) = trainer.global_step, self._steps
        if step >= first and not isinstance(task.model, QuantizedClassifier):
            apply_surgery(trainer, pl_module, lambda model: self._swap(task, model, batch.images))
            trainer.print(
                f"quantization-aware from step {step} on: {len(task.model.ranges)} tensors are rounded to int8"
            )
        if isinstance(task.model, QuantizedClassifier):
            task.model.watch("average" if step < bounds else "no")
            task.model.freeze_norms = step >= norms

    def _swap(self, task: Any, model: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
        assert isinstance(model, Classifier)
        task.model = QuantizedClassifier(model, *_shape(task))
        task.model.calibrate(images)
        first_buffers(task.model)  # each process has seen a batch of its own
        return {}

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say in the summary what is rounded."""
        folder, model = run_folder(trainer), getattr(pl_module, "model", None)
        if folder is not None and isinstance(model, QuantizedClassifier):
            update_summary(folder, {"qat": {"tensors": len(model.ranges), "floating_point": model.left}})


def _shape(pl_module: pl.LightningModule) -> tuple[int, int]:
    task: Any = pl_module
    return task.facts.channels, task.facts.image_size
