"""Hooks of a data module around the transfer of a batch to the device: augmentation, dtype, unreadable images."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from imgrec.augment import BatchRandom, TrainingPipeline
from imgrec.data.image_dtype import ImageDtype, choose_dtype, convert_batch
from imgrec.types import Batch
from imgrec.utils.seeding import run_seed

logger = logging.getLogger(__name__)


class BatchTransfer(pl.LightningDataModule):
    """Data module that augments training batches on their device.

    Attributes:
        training: Transforms of training images and batches.
        skipped: Reason by id, for every image that could not be read so far.
    """

    training: TrainingPipeline
    skipped: dict[str, str]
    _image_dtype: ImageDtype
    _given_seed: int | None

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Add unreadable images to ``skipped`` and log each of them once."""
        if isinstance(batch, Batch):
            for name, reason in batch.skipped:
                if name not in self.skipped:
                    self.skipped[name] = reason
                    logger.warning("image skipped: %s (%s)", name, reason)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment and mix a training batch on its device, and convert the images of every split to one dtype."""
        if not isinstance(batch, Batch) or self.trainer is None:
            return batch
        module = self.trainer.lightning_module
        if self.trainer.training:
            batch = self.augment(batch, float(getattr(module, "progress", 0.0)))
        return convert_batch(batch, choose_dtype(self._image_dtype, module, self.training.returns_float))

    def augment(self, batch: Batch, progress: float = 0.0) -> Batch:
        """Return a batch of the training loader after its batch transforms and mixing.

        Args:
            batch: Batch of the loader.
            progress: Completed fraction of training, in [0, 1]. Defaults to 0.
        """
        if self.training.idle:
            return batch
        draws = BatchRandom(batch.keys, self._seed, batch.epoch)
        images, targets = self.training.apply(batch.images, batch.targets, draws, progress)
        return replace(batch, images=images, targets=targets)

    @property
    def _seed(self) -> int:
        return run_seed() if self._given_seed is None else self._given_seed
