"""The LightningDataModule of every experiment: a source, its splits, its transforms, its loaders."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import SequentialSampler

from imgrec.augment import (
    DEFAULT_TRANSFORMS,
    Draws,
    Mix,
    Pipeline,
    build_training_pipeline,
    build_transforms,
    check_training_transforms,
    check_transforms,
)
from imgrec.data.bad_images import find_bad_images, refuse_bad_images, usable_cores
from imgrec.data.cache.kept_images import KeptImages, evaluated_splits
from imgrec.data.cache.policy import CacheMode
from imgrec.data.cache.storage import CachedImages
from imgrec.data.checks import check_arguments, fetches
from imgrec.data.decoding.bit_depth import sixteen_bit, warn_of_few_levels
from imgrec.data.decoding.image import BadImage, to_channels
from imgrec.data.first_look import decode_some, first_image, square_side
from imgrec.data.image_dtype import ImageDtype, choose_dtype, convert_batch
from imgrec.data.loading import BatchLoader, EvaluationSet, TrainingSet
from imgrec.data.samplers.balanced import SAMPLERS, strata
from imgrec.data.samplers.order import EvaluationOrder, TrainingOrder, process_rank
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.split_table import SplitTable, with_classes
from imgrec.data.splits import Rows, Splits, check_splits, split_source
from imgrec.data.wrappers.class_mapping import check_classes, map_classes
from imgrec.data.wrappers.corrections import amend, read_exclusions, read_labels, relabelled
from imgrec.data.wrappers.training_split import with_stored_splits
from imgrec.errors import UserError
from imgrec.registry import Spec, Specs, as_list
from imgrec.trust import Trust, allow, current, declare, in_own_scope, reading
from imgrec.types import Batch, DataFacts
from imgrec.utils.seeding import position_generator, run_seed

logger = logging.getLogger(__name__)


class ImageDataModule(pl.LightningDataModule):
    """Labelled images from any source, split, transformed and batched.

    A wrong argument is refused by the constructor, before any data is read; wrong data by :meth:`setup`. Afterwards,
    ``facts`` contains what a model requires.

    Batches are :class:`imgrec.types.Batch`. The loaders and the transfer to the device use uint8. After the transfer,
    the images of every split have one dtype and range. A LightningModule that is not an imgrec task receives float32 in
    [0, 1], whatever the transforms are, unless it has the attribute ``image_dtype = "uint8"``. imgrec tasks accept
    both: they receive uint8, or float32 in [0, 1] in every split if a training transform can return floats.

    Args:
        source: where the images come from; see `imgrec list sources`.
        image_size: side of the square image that the model takes, in pixels; by default that of the first image.
        channels: 3 for colour, 1 for grey; images are converted.
        batch_size: training images in a batch, for each process; ``all`` for one batch of every training image, which
            is full-batch gradient descent: for small sets.
        eval_batch_size: images in a batch of validation, test and prediction; by default ``batch_size``, or 256 where
            that is ``all``.
        train_transforms: what happens to a training image; see `imgrec list augmentations`. By default it is resized
            and its centre cut out, as for evaluation.
        eval_transforms: what happens to any other image; by default likewise.
        val_fraction: the part of each class that is for validation, where the source gives none.
        test_fraction: the part of each class that is for the test, where the source gives no splits at all; 0 for none.
        split_seed: another one carves other images.
        num_workers: processes that load; by default none where a batch is one copy from memory or a cache, else one a
            core, up to 8.
        on_bad_image: ``skip`` leaves images out that cannot be read and counts them; ``error`` looks at every image
            before training and refuses to start.
        seed: the seed of order and augmentation; by default the seed of the run.
        classes: the classes to keep, or new names for them: a mapping of old names to new ones, where two old ones may
            have one new name, and ``null`` leaves a class out; see :func:`imgrec.data.map_classes`.
        cache: place of decoded images, which are decoded once. ``memory``; ``disk``, for later runs too, in
            ``IMGREC_CACHE`` or ``~/.cache/imgrec``; ``off``; or ``auto``: memory if they fit into a quarter of the free
            memory and 4 GiB, otherwise the disk. All caches on disk together have a limit, by default half of the
            free space; the least recently used ones are removed. ``IMGREC_CACHE_LIMIT`` or `imgrec cache limit` sets
            another one. See :func:`imgrec.data.plan_cache` for the content.
        exclude: a CSV file with the images to leave out of every split, as `imgrec audit --fix` writes it, or with
            their ids in a column ``id``; all others stay in their splits.
        relabel: a CSV file with new classes of images: in a column ``action``, as the audit writes it, or in a column
            ``label``.
        image_dtype: dtype of the images after the transfer to the device, in every split: ``uint8`` for 0 to 255,
            ``float32`` for [0, 1], or ``auto`` for the one that the LightningModule requests.
        sampler: how often each training image is shown, against imbalance; see `imgrec list samplers`. By default each
            once in an epoch.

    Raises:
        UserError: an argument that cannot be.
    """

    def __init__(
        self,
        source: Spec,
        image_size: int | None = None,
        channels: Literal[1, 3] = 3,
        batch_size: int | Literal["all"] = 64,
        eval_batch_size: int | None = None,
        train_transforms: Specs | None = None,
        eval_transforms: Specs | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        num_workers: int | None = None,
        on_bad_image: Literal["skip", "error"] = "skip",
        seed: int | None = None,
        classes: dict[str | int, str | int | None] | list[str | int] | None = None,
        sampler: Spec | None = None,
        cache: CacheMode = "auto",
        exclude: str | None = None,
        relabel: str | None = None,
        image_dtype: ImageDtype = "auto",
    ) -> None:
        super().__init__()
        self.opened = current()
        SOURCES.check(source, "data.source")
        check_classes(classes)
        if sampler is not None:
            SAMPLERS.check(sampler, "data.sampler")
        check_arguments(
            image_size=image_size,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            channels=channels,
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            num_workers=num_workers,
            on_bad_image=on_bad_image,
            cache=cache,
            image_dtype=image_dtype,
        )
        known = {} if image_size is None else {"image_size": image_size}
        check_training_transforms(train_transforms, "data.train_transforms", in_channels=channels, **known)
        check_transforms(eval_transforms, "data.eval_transforms", in_channels=channels, **known)
        self._excluded = [] if exclude is None else read_exclusions(exclude)
        self._relabelled = {} if relabel is None else read_labels(relabel)
        self.save_hyperparameters()
        self.skipped: dict[str, str] = {}
        self._source_spec = source
        self._image_size = image_size
        self._channels: Literal[1, 3] = channels
        self._batch_size = None if batch_size == "all" else batch_size
        self._eval_batch_size = eval_batch_size or self._batch_size or 256
        self._train_specs = train_transforms
        self._eval_specs = list(DEFAULT_TRANSFORMS) if eval_transforms is None else as_list(eval_transforms)
        self._fractions = (val_fraction, test_fraction)
        self._split_seed = split_seed
        self._num_workers = num_workers
        self._on_bad_image = on_bad_image
        self._seed = seed
        self._classes = classes
        self._sampler_spec = sampler
        self._cache = cache
        self._table: tuple[SplitTable, bool] | None = None
        self._image_dtype: ImageDtype = image_dtype
        self._warned_of_depth = False
        self._ready: tuple[Source, Splits, DataFacts] | None = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *given: Any, trust: Trust = None, **named: Any) -> Self:
        """Return the data module of a checkpoint, as Lightning does; it names registered entries only.

        Args:
            checkpoint_path: a ``.ckpt`` file.
            trust: names of classes and modules that may be imported in addition; ``True`` allows every name.
            *given: the positional arguments of Lightning's method.
            **named: its other arguments, and arguments that replace those of the checkpoint.

        Raises:
            UserError: If the checkpoint names a class that is neither registered nor trusted.
        """
        declare(cls)
        with reading(checkpoint_path if isinstance(checkpoint_path, str | os.PathLike) else "the checkpoint", trust):
            allow(named)
            found: Self = super().load_from_checkpoint(checkpoint_path, *given, **{"weights_only": True, **named})
        return found

    @in_own_scope
    def prepare_data(self) -> None:
        """Fetch what is to be downloaded; Lightning calls it in one process of each machine."""
        if fetches(self._source_spec):
            self._build_source()

    @in_own_scope
    def setup(self, stage: str | None = None) -> None:
        """Read the table of images, split it, and find out what a model must know. A second call does nothing.

        Raises:
            UserError: the data cannot be used, and why.
        """
        if self._ready is not None:
            return
        task = self.trainer.lightning_module if self.trainer is not None and stage == "fit" else None
        if (check := getattr(task, "check_data_module", None)) is not None:
            check(self)
        source, splits = self._split()
        rows = np.concatenate([splits.train, splits.val, splits.test])
        if self._on_bad_image == "error" and not source.in_memory:
            refuse_bad_images(find_bad_images(source, rows.tolist()), len(rows))
        sixteen_bit.reset()
        name, image = first_image(source, splits.train)
        size = square_side(name, image) if self._image_size is None else self._image_size
        self.training = build_training_pipeline(
            self._train_specs,
            "data.train_transforms",
            image_size=size,
            in_channels=self._channels,
            num_classes=len(source.class_names),
        )
        self.eval_pipeline = build_transforms(
            self._eval_specs, "data.eval_transforms", image_size=size, in_channels=self._channels
        )
        for pipeline in (self.training.sample, self.eval_pipeline):  # found out here, not in a worker process
            pipeline(to_channels(image, self._channels), position_generator(0))
        self._images = KeptImages(
            source, self._source_spec, self._cache, self._channels, (self.training.sample, self.eval_pipeline)
        )
        counts = source.class_counts(splits.train)
        facts = DataFacts(
            class_names=source.class_names,
            class_counts=tuple(counts.tolist()),
            image_size=size,
            channels=self._channels,
            eval_transforms=tuple(self._eval_specs),
            multi_label=source.multi_label,
        )
        self._ready = (source, splits, facts)

    @property
    def source(self) -> Source:
        """The table of images, after :meth:`setup`."""
        return self._read()[0]

    @property
    def splits(self) -> Splits:
        """The rows of each split, after :meth:`setup`."""
        return self._read()[1]

    @property
    def facts(self) -> DataFacts:
        """What a model must know of the data, after :meth:`setup`."""
        return self._read()[2]

    @cached_property
    def fingerprint(self) -> str:
        """Changes when the data does, and what is left out; see :meth:`imgrec.data.Source.fingerprint`."""
        found = self.source.fingerprint()
        if not self._excluded:
            return found
        return hashlib.blake2b("\0".join([found, *sorted(self._excluded)]).encode(), digest_size=16).hexdigest()

    @cached_property
    def mixing(self) -> Mix | None:
        """The transform that mixes the images of a batch, if there is one; known before any data is read."""
        known = {"image_size": self._image_size or 64, "in_channels": self._channels, "num_classes": 2}
        return build_training_pipeline(self._train_specs, "data.train_transforms", **known).mix

    def split_sizes(self) -> dict[str, int]:
        """The number of images for ``train``, ``val`` and ``test``."""
        return self.splits.sizes()

    def load_images(self, ids: Iterable[str]) -> list[Tensor | None]:
        """The images as they lie in the source, uint8 ``(1 or 3, height, width)``; ``None`` for what cannot be read."""
        found: list[Tensor | None] = []
        for name in ids:
            row = self._row_of.get(name)
            try:
                found.append(None if row is None else self.source.load(row))
            except BadImage:
                found.append(None)
        return found

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.source.ids)}

    def train_dataloader(self) -> BatchLoader:
        """Training batches, in an order that is a function of (seed, epoch); the last one is dropped if not full."""
        source, splits, _ = self._read()
        seed = run_seed() if self._seed is None else self._seed
        rank, world_size = process_rank()
        rows = splits.train
        sampler: TrainingOrder | SequentialSampler
        if getattr(self.trainer, "overfit_batches", 0):
            # the same few batches each epoch, of mixed classes, in each process others
            rows = rows[[position for position, _ in TrainingOrder(len(rows), seed)]][rank::world_size]
            sampler = SequentialSampler(rows)
        else:
            repeats, groups = self._repeats(source, rows)
            sampler = TrainingOrder(len(rows), seed, rank, world_size, self._samples_done, repeats, groups)
        images, pipeline = self._kept(self.training.sample, {None, "train"})
        dataset = TrainingSet(source, rows, pipeline, self._channels, seed, images)
        size = self._batch_size or len(sampler)
        return self._loader(dataset, sampler, size, drop_last=len(sampler) > size)

    def val_dataloader(self) -> BatchLoader:
        """Validation batches: every image once over all processes."""
        return self._evaluation(self.splits.val)

    def test_dataloader(self) -> BatchLoader:
        """Test batches: every image once over all processes.

        Raises:
            UserError: there is no test split.
        """
        if not len(self.splits.test):
            given = {split for split in self.source.splits if split}
            how = (
                "a source with splits needs a test split of its own"
                if given
                else "data.test_fraction above 0 carves one"
            )
            raise UserError(f"data: there is no test split; {how}.")
        return self._evaluation(self.splits.test)

    def predict_dataloader(self) -> BatchLoader:
        """The test batches."""
        return self.test_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Keep account of images that could not be read: each is logged once, and stands in ``skipped``."""
        if isinstance(batch, Batch):
            for name, reason in batch.skipped:
                if name not in self.skipped:
                    self.skipped[name] = reason
                    logger.warning("image skipped: %s (%s)", name, reason)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment and mix a training batch on its device, and give the images of every split one dtype and range."""
        if not isinstance(batch, Batch) or self.trainer is None:
            return batch
        module = self.trainer.lightning_module
        if self.trainer.training:
            batch = self.augment(batch, float(getattr(module, "progress", 0.0)))
        return convert_batch(batch, choose_dtype(self._image_dtype, module, self.training.returns_float))

    def augment(self, batch: Batch, progress: float = 0.0) -> Batch:
        """What training sees of a batch of the training loader: its whole-batch transforms and mixing done.

        Args:
            batch: as the loader gives it.
            progress: the fraction of training that is done.
        """
        if self.training.idle:
            return batch
        seed = run_seed() if self._seed is None else self._seed
        draws = Draws(batch.keys, seed, batch.epoch)
        images, targets = self.training.apply(batch.images, batch.targets, draws, progress)
        return replace(batch, images=images, targets=targets)

    def use_splits(self, table: SplitTable, changed: bool = False) -> None:
        """Use the split of a run, instead of the split that the source gives or the fractions draw.

        Images that the run does not have are left out, with one line in the log.

        Args:
            table: the split of the run.
            changed: accept that the data has changed. Images of the run keep their split, missing ones are left out,
                and new ones are in the split that they have without the table.

        Raises:
            UserError: By :meth:`setup`, unless ``changed``: if images of the run are missing, or have another label or
                other content.
        """
        self._table = (table, changed)
        self._ready = None
        self.__dict__.pop("fingerprint", None)
        self.__dict__.pop("_row_of", None)

    def split_table(self) -> SplitTable:
        """Return the samples of each split as a table, after :meth:`setup`."""
        return SplitTable.of(self.source, self.splits)

    def _split(self) -> tuple[Source, Splits]:
        """The source with its final labels, and the rows of each split."""
        table, changed = self._table or (None, False)
        if table is None or changed:
            source, splits = self._computed_split()
            if table is not None:
                splits = table.merged(source, splits)
                check_splits(source, splits)
            return source, splits
        with with_stored_splits(table.split_of):
            everything = map_classes(self._build_source(), self._classes)
        source = with_classes(everything, table.class_names)
        if self._relabelled:
            source = relabelled(source, self._relabelled)
        if new := table.check(source, self._excluded):
            first, count = ", ".join(new[:3]) + (", ..." if len(new) > 3 else ""), len(new)
            count += len(everything) - len(source)  # of classes that the run does not have
            rank_zero_only(logger.info)("data: ignoring %d images that the run does not have: %s", count, first)
        return source, table.splits_in(source)

    def _computed_split(self) -> tuple[Source, Splits]:
        source = map_classes(self._build_source(), self._classes)
        val_fraction, test_fraction = self._fractions
        try:
            splits = split_source(source, val_fraction, test_fraction, self._split_seed)
        except UserError as error:
            raise UserError(f"data.source: {error}") from error
        if self._excluded or self._relabelled:
            source, splits = amend(source, splits, self._excluded, self._relabelled)
        return source, splits

    def _build_source(self) -> Source:
        """The source; one that alters the training images alone is told how the splits are carved."""
        val_fraction, test_fraction = self._fractions
        return SOURCES.build(
            self._source_spec,
            "data.source",
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            split_seed=self._split_seed,
        )

    def _evaluation(self, rows: np.ndarray[Any, np.dtype[np.int64]]) -> BatchLoader:
        source, _, _ = self._read()
        seed = run_seed() if self._seed is None else self._seed
        rank, world_size = process_rank()
        images, pipeline = self._kept(self.eval_pipeline, evaluated_splits(source))
        dataset = EvaluationSet(source, rows, pipeline, self._channels, seed, images)
        size = self._eval_batch_size
        alone = world_size == 1
        sampler = SequentialSampler(dataset) if alone else EvaluationOrder(len(dataset), rank, world_size, size)
        return self._loader(dataset, sampler, size)

    def _kept(self, pipeline: Pipeline, splits: set[str | None]) -> tuple[CachedImages | None, Pipeline]:
        """Return the decoded images and what is left to do; warn once of 16-bit images that use 12 bits or fewer."""
        images, rest = self._images.of(pipeline, splits)
        if sixteen_bit.counts.total and not self._warned_of_depth:
            if images is None:
                decode_some(self.source, self.splits.train)
            self._warned_of_depth = warn_of_few_levels(sixteen_bit.counts)
        return images, rest

    def _loader(
        self,
        dataset: TrainingSet | EvaluationSet,
        sampler: TrainingOrder | EvaluationOrder | SequentialSampler,
        batch_size: int,
        drop_last: bool = False,
    ) -> BatchLoader:
        workers = self._workers(dataset)
        return BatchLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def _workers(self, dataset: TrainingSet | EvaluationSet) -> int:
        if self._num_workers is not None:
            return self._num_workers
        cores = usable_cores() // (self.trainer.num_devices if self.trainer is not None else 1)
        return 0 if self.source.in_memory or cores < 2 or dataset.whole else min(8, cores)

    def _repeats(self, source: Source, rows: Rows) -> tuple[NDArray[np.float64] | None, Rows | None]:
        """How often each training image is expected in an epoch, and the groups within which the draw is even."""
        if self._sampler_spec is not None:
            sampler = SAMPLERS.build(self._sampler_spec, "data.sampler")
            return sampler.repeats(source, rows), strata(source, rows)
        return (None, None) if source.repeats is None else (source.repeats[rows], strata(source, rows))

    def _samples_done(self) -> int:
        """How many of this epoch's samples a resumed run had done already; 0 at every other time."""
        if self.trainer is None or not self.trainer.training or self._batch_size is None:
            return 0
        loop = self.trainer.fit_loop  # its epoch loop forgets too soon that it restarts, where a validation was due
        done = loop.epoch_loop.batch_progress.current.ready
        return done * self._batch_size if loop.restarting and done < self.trainer.num_training_batches else 0

    def _read(self) -> tuple[Source, Splits, DataFacts]:
        if self._ready is None:
            raise RuntimeError("call setup() first: the data has not been read yet")
        return self._ready
