"""Loaders of a data module: batch size, sampler, worker processes, decoded images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import SequentialSampler

from imgrec.augment import Pipeline
from imgrec.data.bad_images import usable_cores
from imgrec.data.cache.split_caches import SplitCaches, evaluation_splits
from imgrec.data.cache.storage import CachedImages
from imgrec.data.checks import decode_some
from imgrec.data.decoding.bit_depth import sixteen_bit, warn_of_few_levels
from imgrec.data.loading import BatchLoader, EvaluationSet, TrainingSet
from imgrec.data.samplers.balanced import SAMPLERS, strata
from imgrec.data.samplers.order import EvaluationSampler, TrainingSampler, process_rank
from imgrec.data.sources.base import Source
from imgrec.data.splits.assign import Rows, Splits
from imgrec.registry import Spec


@dataclass(frozen=True)
class LoaderOptions:
    """Arguments of a data module that its loaders depend on, as in :class:`imgrec.data.ImageDataModule`."""

    channels: Literal[1, 3]
    batch_size: int | Literal["all"]
    eval_batch_size: int | None
    num_workers: int | None
    sampler: Spec | None


class LoaderFactory:
    """Loaders of one source and its splits.

    Args:
        source: Table of images.
        splits: Rows of each split.
        caches: Decoded images.
        options: Batch sizes, workers and sampler.
    """

    def __init__(self, source: Source, splits: Splits, caches: SplitCaches, options: LoaderOptions) -> None:
        self.source = source
        self.splits = splits
        self.caches = caches
        self.options = options
        self._warned_of_depth = False

    def training(
        self, pipeline: Pipeline, seed: int, trainer: Any = None, skip: Callable[[], int] = lambda: 0
    ) -> BatchLoader:
        """Return the loader of the training split.

        Args:
            pipeline: Transforms of single images.
            seed: Seed of the order and of the transforms.
            trainer: Trainer, for ``overfit_batches`` and the number of devices. Defaults to none.
            skip: Function that returns the number of samples of this epoch that are already done.
        """
        rank, world_size = process_rank()
        rows = self.splits.train
        sampler: TrainingSampler | SequentialSampler
        if getattr(trainer, "overfit_batches", 0):
            # the same few batches of mixed classes in every epoch, different ones in each process
            rows = rows[[position for position, _ in TrainingSampler(len(rows), seed)]][rank::world_size]
            sampler = SequentialSampler(rows)
        else:
            repeats, groups = self._repeats(rows)
            sampler = TrainingSampler(len(rows), seed, rank, world_size, skip, repeats, groups)
        images, rest = self._cached(pipeline, {None, "train"})
        dataset = TrainingSet(self.source, rows, rest, self.options.channels, seed, images)
        size = len(sampler) if self.options.batch_size == "all" else self.options.batch_size
        return self._loader(dataset, sampler, size, trainer, drop_last=len(sampler) > size)

    def evaluation(self, rows: Rows, pipeline: Pipeline, seed: int, trainer: Any = None) -> BatchLoader:
        """Return a loader that yields every image of ``rows`` once over all processes.

        Args:
            rows: Rows of the source.
            pipeline: Transforms of single images.
            seed: Seed of the transforms.
            trainer: Trainer, for the number of devices. Defaults to none.
        """
        rank, world_size = process_rank()
        images, rest = self._cached(pipeline, evaluation_splits(self.source))
        dataset = EvaluationSet(self.source, rows, rest, self.options.channels, seed, images)
        size = self.options.eval_batch_size or (256 if self.options.batch_size == "all" else self.options.batch_size)
        if world_size == 1:
            return self._loader(dataset, SequentialSampler(dataset), size, trainer)
        return self._loader(dataset, EvaluationSampler(len(dataset), rank, world_size, size), size, trainer)

    def _loader(
        self,
        dataset: TrainingSet | EvaluationSet,
        sampler: TrainingSampler | EvaluationSampler | SequentialSampler,
        batch_size: int,
        trainer: Any,
        drop_last: bool = False,
    ) -> BatchLoader:
        workers = self._num_workers(dataset, trainer)
        return BatchLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _num_workers(self, dataset: TrainingSet | EvaluationSet, trainer: Any) -> int:
        if self.options.num_workers is not None:
            return self.options.num_workers
        cores = usable_cores() // (trainer.num_devices if trainer is not None else 1)
        return 0 if self.source.in_memory or cores < 2 or dataset.is_one_copy else min(8, cores)

    def _repeats(self, rows: Rows) -> tuple[NDArray[np.float64] | None, Rows | None]:
        """Return the expected number of times of each training image in an epoch, and its stratum."""
        source = self.source
        if self.options.sampler is not None:
            sampler = SAMPLERS.build(self.options.sampler, "data.sampler")
            return sampler.repeats(source, rows), strata(source, rows)
        return (None, None) if source.repeats is None else (source.repeats[rows], strata(source, rows))

    def _cached(self, pipeline: Pipeline, splits: set[str | None]) -> tuple[CachedImages | None, Pipeline]:
        """Return decoded images and the remaining transforms. Warn once of 16-bit images with 12 bits or fewer."""
        images, rest = self.caches.open(pipeline, splits)
        if sixteen_bit.counts.total and not self._warned_of_depth:
            if images is None:
                decode_some(self.source, self.splits.train)
            self._warned_of_depth = warn_of_few_levels(sixteen_bit.counts)
        return images, rest


def resumed_samples(trainer: Any, batch_size: int | Literal["all"]) -> int:
    """Return the number of samples of this epoch that a resumed run had completed, 0 in every other epoch.

    Args:
        trainer: Trainer of a fit, or ``None``.
        batch_size: Training images in a batch, or ``all``.
    """
    if trainer is None or not trainer.training or batch_size == "all":
        return 0
    loop = trainer.fit_loop  # its epoch loop resets `restarting` too early if a validation is due
    done = loop.epoch_loop.batch_progress.current.ready
    return done * batch_size if loop.restarting and done < trainer.num_training_batches else 0
