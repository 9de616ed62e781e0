"""Augmentation schedules: strength, and size of the images."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from imgrec.augment import TrainingPipeline
from imgrec.errors import UserError
from imgrec.tasks.callback import Callback
from imgrec.utils.ranges import ClosedUnitInterval, LeftOpenUnitInterval, PositiveInt, check_ranges


class AugmentationStrength(Callback):
    """Linear schedule of the strength of batch transforms and mixing.

    Strength 0 disables color changes, rotation, erasing and mixing. Strength 1 is the strength in the config. Crops,
    flips and the transforms of single images in the loader do not change. The strength depends on the step only, and a
    resumed run is exact.

    Args:
        start: Strength at the first step, in [0, 1]. Defaults to 0.
        end: Final strength, in [0, 1]. Defaults to 1.
        until: Fraction of training after which the strength is ``end``. Defaults to 1.

    Raises:
        UserError: If an argument is out of range.

    >>> AugmentationStrength(start=0.5, until=0.5).compute_strength(0.25)
    0.75

    Example::

        trainer:
          callbacks:
            - {class_path: AugmentationStrength, start: 0.2, until: 0.8}

    Source: Tan and Le 2021, "EfficientNetV2: smaller models and faster training", arXiv 2104.00298.
    """

    runs_in_short_runs = True

    @check_ranges
    def __init__(
        self, start: ClosedUnitInterval = 0.0, end: ClosedUnitInterval = 1.0, until: LeftOpenUnitInterval = 1.0
    ) -> None:
        self.start = start
        self.end = end
        self.until = until

    def compute_strength(self, progress: float) -> float:
        """Return the strength at a fraction of training."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.until)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the schedule of the data module."""
        self.schedule(_training_pipeline(trainer, self))

    def schedule(self, training: TrainingPipeline) -> None:
        """Set the schedule of a training pipeline."""
        training.strength = self.compute_strength


class ImageSizeSchedule(Callback):
    """Progressive resizing: training starts with smaller images, which are resized on the device.

    Every batch is resized after augmentation and mixing, and a step on small images is cheaper. Evaluation uses the
    full size. It requires a model that accepts images of any size, as most convolutional models do.

    Args:
        start: Side at the first step, as a fraction of the full side. Defaults to 0.5.
        until: Fraction of training after which images have the full size. Defaults to 0.8.
        multiple: Divisor of all sides, in pixels. Defaults to 4.

    Raises:
        UserError: If an argument is out of range.

    Example::

        trainer:
          callbacks:
            - {class_path: ImageSizeSchedule, start: 0.5, until: 0.8}

    Source: Howard 2018, the DAWNBench entry of fast.ai, https://github.com/fastai/imagenet-fast; Tan and Le 2021,
    "EfficientNetV2: smaller models and faster training", arXiv 2104.00298.
    """

    runs_in_short_runs = True

    @check_ranges
    def __init__(
        self, start: LeftOpenUnitInterval = 0.5, until: LeftOpenUnitInterval = 0.8, multiple: PositiveInt = 4
    ) -> None:
        self.start = start
        self.until = until
        self.multiple = multiple

    def compute_size(self, progress: float, full: int) -> int:
        """Return the side in pixels at a fraction of training, for a full side of ``full`` pixels."""
        if progress >= self.until:
            return full
        side = full * (self.start + (1 - self.start) * progress / self.until)
        return min(full, max(self.multiple, round(side / self.multiple) * self.multiple))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the schedule of the data module."""
        self.schedule(_training_pipeline(trainer, self))

    def schedule(self, training: TrainingPipeline) -> None:
        """Set the schedule of a training pipeline."""
        full = training.sample.image_size
        training.output_size = lambda progress: self.compute_size(progress, full)


def _training_pipeline(trainer: pl.Trainer, callback: pl.Callback) -> TrainingPipeline:
    """Return the training pipeline of the data module.

    Raises:
        UserError: If the trainer has no :class:`imgrec.ImageDataModule`.
    """
    data: Any = getattr(trainer, "datamodule", None)
    found = getattr(data, "training", None)
    if not isinstance(found, TrainingPipeline):
        raise UserError(f"{type(callback).__name__}: expected an imgrec.ImageDataModule, got {type(data).__name__}.")
    return found
