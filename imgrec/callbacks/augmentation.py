"""Augmentation that changes over training: its strength, and the size of the images."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from imgrec.augment import TrainingPipeline
from imgrec.errors import UserError
from imgrec.tasks.callback import Callback


class AugmentationStrength(Callback):
    """Raises the strength of batch transforms and mixing over training, in a straight line.

    Strength 0 changes no colour, turns nothing, erases and mixes nothing; 1 is what the config says. Crops and flips,
    and the transforms of single images in the loader, are the same throughout. The strength is a function of the step
    alone, so a resumed run has it right.

    Args:
        start: the strength at the first step, 0 to 1.
        end: the strength in the end.
        until: the fraction of training after which it is ``end``.

    Raises:
        UserError: a number that cannot be.

    >>> AugmentationStrength(start=0.5, until=0.5).at(0.25)
    0.75

    Example::

        trainer:
          callbacks:
            - {class_path: AugmentationStrength, start: 0.2, until: 0.8}

    Source: Tan and Le 2021, "EfficientNetV2: smaller models and faster training", arXiv 2104.00298.
    """

    runs_in_short_runs = True

    def __init__(self, start: float = 0.0, end: float = 1.0, until: float = 1.0) -> None:
        if not (0 <= start <= 1 and 0 <= end <= 1):
            raise UserError(f"AugmentationStrength: `start` and `end` are from 0 to 1, got {start} and {end}.")
        _check_until("AugmentationStrength", until)
        self.start = start
        self.end = end
        self.until = until

    def at(self, progress: float) -> float:
        """The strength when this fraction of training is done."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.until)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the schedule to the data module's pipeline."""
        self.schedule(pipeline(trainer, self))

    def schedule(self, training: TrainingPipeline) -> None:
        """Let the strength of ``training`` follow this schedule."""
        training.strength = self.at


class ImageSizeSchedule(Callback):
    """Begins training with smaller images and lets them grow: progressive resizing, on the device.

    Each batch is resized after augmentation and mixing, so a step on small images costs less. Evaluation always sees
    the full size. For networks that take images of any size: most convolutional ones.

    Args:
        start: the side at the first step, as a part of the full side.
        until: the fraction of training after which images have the full size.
        multiple: sides are multiples of so many pixels.

    Raises:
        UserError: a number that cannot be.

    Example::

        trainer:
          callbacks:
            - {class_path: ImageSizeSchedule, start: 0.5, until: 0.8}

    Source: Howard 2018, the DAWNBench entry of fast.ai, https://github.com/fastai/imagenet-fast; Tan and Le 2021,
    "EfficientNetV2: smaller models and faster training", arXiv 2104.00298.
    """

    runs_in_short_runs = True

    def __init__(self, start: float = 0.5, until: float = 0.8, multiple: int = 4) -> None:
        if not 0 < start <= 1:
            raise UserError(f"ImageSizeSchedule: `start` is a part of the side, above 0 and up to 1, got {start}.")
        if multiple < 1:
            raise UserError(f"ImageSizeSchedule: `multiple` is 1 pixel or more, got {multiple}.")
        _check_until("ImageSizeSchedule", until)
        self.start = start
        self.until = until
        self.multiple = multiple

    def at(self, progress: float, full: int) -> int:
        """The side, in pixels, when this fraction of training is done and the full side is ``full``."""
        if progress >= self.until:
            return full
        side = full * (self.start + (1 - self.start) * progress / self.until)
        return min(full, max(self.multiple, round(side / self.multiple) * self.multiple))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand the schedule to the data module's pipeline."""
        self.schedule(pipeline(trainer, self))

    def schedule(self, training: TrainingPipeline) -> None:
        """Let the image size of ``training`` follow this schedule."""
        full = training.sample.image_size
        training.output_size = lambda progress: self.at(progress, full)


def pipeline(trainer: pl.Trainer, callback: pl.Callback) -> TrainingPipeline:
    """The training pipeline of the trainer's data module.

    Raises:
        UserError: it has none.
    """
    data: Any = getattr(trainer, "datamodule", None)
    found = getattr(data, "training", None)
    if not isinstance(found, TrainingPipeline):
        raise UserError(f"{type(callback).__name__} works with imgrec.ImageDataModule, got {type(data).__name__}.")
    return found


def _check_until(name: str, until: float) -> None:
    if not 0 < until <= 1:
        raise UserError(f"{name}: `until` is a fraction of training, above 0 and up to 1, got {until}.")
