"""The LightningDataModule: a source, its splits, its transforms and its loaders."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from torch import Tensor

from imgrec.augment import (
    DEFAULT_TRANSFORMS,
    Mix,
    build_training_pipeline,
    build_transforms,
    check_training_transforms,
    check_transforms,
)
from imgrec.data.bad_images import find_bad_images, refuse_bad_images
from imgrec.data.batch_transfer import BatchTransfer
from imgrec.data.cache.policy import CacheMode
from imgrec.data.cache.split_caches import SplitCaches
from imgrec.data.checks import check_module_arguments, first_image, needs_download, square_side
from imgrec.data.data_access import DataAccess
from imgrec.data.decoding.bit_depth import sixteen_bit
from imgrec.data.decoding.image import to_channels
from imgrec.data.image_dtype import ImageDtype
from imgrec.data.loader_factory import LoaderFactory, LoaderOptions, resumed_samples
from imgrec.data.loading import BatchLoader
from imgrec.data.samplers.balanced import SAMPLERS
from imgrec.data.sources.base import SOURCES
from imgrec.data.sources.python_object import as_source_spec, dataset_source, plain_spec
from imgrec.data.splits.reader import SplitReader
from imgrec.data.wrappers.class_mapping import check_classes
from imgrec.data.wrappers.corrections import read_exclusions, read_relabelling
from imgrec.errors import UserError
from imgrec.registry import Spec, Specs, as_list
from imgrec.trust import Trust, allow, current, declare, in_own_scope, reading
from imgrec.types import DataFacts
from imgrec.utils.ranges import NonNegativeInt, OpenUnitInterval, PositiveInt, RightOpenUnitInterval
from imgrec.utils.seeding import position_generator

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    SourceInput = Spec | Dataset[Any] | tuple[Any, Any]
else:
    SourceInput = Spec  # a config contains specs only


class ImageDataModule(DataAccess, BatchTransfer):
    """Labelled images from any source, split, transformed and batched.

    The constructor rejects wrong arguments before any data is read. :meth:`setup` rejects wrong data. After it,
    ``facts`` contains the properties of the data that a model requires.

    Batches are :class:`imgrec.types.Batch`. ``images, targets = batch`` unpacks them. The loaders and the transfer to
    the device use uint8. After the transfer, the images of every split have one dtype and range. A LightningModule that
    is not an imgrec task receives float32 in [0, 1], unless it has the attribute ``image_dtype = "uint8"``. imgrec
    tasks accept both. They receive uint8, or float32 in [0, 1] in every split if a training transform returns floats.

    Args:
        source: Spec of the source (`imgrec list sources`). In Python also a torch Dataset of ``(image, label)``, or
            a pair ``(images, labels)`` of arrays or tensors (`imgrec show sources dataset`).
        image_size: Side of the square input of the model, in pixels. Defaults to the side of the first image.
        channels: 3 for color, 1 for gray. Images are converted. Defaults to 3.
        batch_size: Training images per batch and process. ``all`` is one batch of every training image (full-batch
            gradient descent, for small data sets). Defaults to 64.
        eval_batch_size: Images per batch of validation, test and prediction. Defaults to ``batch_size``, or to 256 if
            that is ``all``.
        train_transforms: Transforms of training images (`imgrec list augmentations`). Defaults to the transforms of
            evaluation.
        eval_transforms: Transforms of all other images. Defaults to a resize and a center crop.
        val_fraction: Fraction of each class for validation if the source has no validation split. Defaults to 0.1.
        test_fraction: Fraction of each class for the test if the source has no split at all, 0 for none. Defaults
            to 0.1.
        split_seed: Seed of the random split. Defaults to 0.
        num_workers: Worker processes. Defaults to 0 if a batch is one copy from memory or from a cache, otherwise to
            the number of cores, at most 8.
        on_bad_image: ``skip`` leaves unreadable images out and counts them. ``error`` reads every image before training
            and raises an error if one is unreadable. Defaults to ``skip``.
        seed: Seed of the order and of augmentation. Defaults to the seed of the run.
        classes: Names of the classes to keep, or a mapping of old to new names. Several old names can have one new
            name. ``null`` excludes a class. See :func:`imgrec.data.map_classes`.
        cache: Location of images that are decoded once. ``memory``, ``disk`` or ``off``. ``auto`` is memory if they fit
            into a quarter of the free memory and 4 GiB, otherwise the disk. Caches on disk are in ``IMGREC_CACHE`` or
            ``~/.cache/imgrec`` and are used by later runs. They have a common limit, by default half of the free space,
            and the least recently used ones are removed. ``IMGREC_CACHE_LIMIT`` or `imgrec cache limit` sets it.
            See :func:`imgrec.data.plan_cache` for the content.
        exclude: CSV file with images to leave out of every split: the output of `imgrec audit --fix`, or a column
            ``id``. All other images keep their split.
        relabel: CSV file with new classes of images, in a column ``action`` as `imgrec audit --fix` writes it, or in a
            column ``label``.
        image_dtype: dtype of the images after the transfer to the device. ``uint8`` for 0 to 255, ``float32`` for
            [0, 1], or ``auto`` for the request of the LightningModule. Defaults to ``auto``.
        sampler: Number of times that each training image is used in an epoch, against imbalance
            (`imgrec list samplers`). Defaults to once.

    Raises:
        UserError: If an argument is unknown, has a wrong type or is out of range.

    Example:
        >>> data = ImageDataModule("digits", batch_size=32)
        >>> data.setup()
        >>> data.split_sizes()
        {'train': 1439, 'val': 179, 'test': 179}
    """

    def __init__(
        self,
        source: SourceInput,
        image_size: PositiveInt | None = None,
        channels: Literal[1, 3] = 3,
        batch_size: PositiveInt | Literal["all"] = 64,
        eval_batch_size: PositiveInt | None = None,
        train_transforms: Specs | None = None,
        eval_transforms: Specs | None = None,
        val_fraction: OpenUnitInterval = 0.1,
        test_fraction: RightOpenUnitInterval = 0.1,
        split_seed: int = 0,
        num_workers: NonNegativeInt | None = None,
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
        given = dict(locals())
        self.opened = current()
        self._spec = as_source_spec(source)
        SOURCES.check(self._spec, "data.source")
        check_classes(classes)
        if sampler is not None:
            SAMPLERS.check(sampler, "data.sampler")
        check_module_arguments(ImageDataModule.__init__, given)
        known = {} if image_size is None else {"image_size": image_size}
        check_training_transforms(train_transforms, "data.train_transforms", in_channels=channels, **known)
        check_transforms(eval_transforms, "data.eval_transforms", in_channels=channels, **known)
        excluded = [] if exclude is None else read_exclusions(exclude)
        labels = {} if relabel is None else read_relabelling(relabel)
        source = self._plain_spec = plain_spec(self._spec)  # a checkpoint contains plain data only
        self.save_hyperparameters()
        self.skipped: dict[str, str] = {}
        self._reader = SplitReader(self._spec, (val_fraction, test_fraction), split_seed, classes, excluded, labels)
        self._options = LoaderOptions(channels, batch_size, eval_batch_size, num_workers, sampler)
        self._image_size = image_size
        self._channels: Literal[1, 3] = channels
        self._train_specs = train_transforms
        self._eval_specs = list(DEFAULT_TRANSFORMS) if eval_transforms is None else as_list(eval_transforms)
        self._on_bad_image = on_bad_image
        self._given_seed = seed
        self._cache: CacheMode = cache
        self._image_dtype: ImageDtype = image_dtype
        self._ready: tuple[LoaderFactory, DataFacts] | None = None

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *given: Any, trust: Trust = None, **named: Any) -> Self:
        """Return the data module of a checkpoint, as Lightning does. Only registered entries are resolved.

        Args:
            checkpoint_path: A ``.ckpt`` file.
            trust: Names of classes and modules that may be imported in addition. ``True`` allows every name.
            *given: Positional arguments of Lightning's method.
            **named: Keyword arguments of Lightning's method, and arguments that replace those of the checkpoint. Pass
                ``source`` if the data module was made from a Python object.

        Raises:
            UserError: If the checkpoint names a class that is neither registered nor trusted.
        """
        declare(cls)
        with reading(checkpoint_path if isinstance(checkpoint_path, str | os.PathLike) else "the checkpoint", trust):
            allow(named)
            found: Self = super().load_from_checkpoint(checkpoint_path, *given, **{"weights_only": True, **named})
        return found

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 64,
        num_workers: int | None = None,
        **arguments: Any,
    ) -> Self:
        """Return a data module of map-style datasets of ``(image, label)``, as in the source `dataset`.

        Args:
            train_dataset: Training images.
            val_dataset: Validation images. Defaults to a part of the training images.
            test_dataset: Test images. Defaults to none, or to a part of the training images if both others are missing.
            predict_dataset: Not accepted: predictions are made for the test images.
            batch_size: Training images per batch. Defaults to 64.
            num_workers: Worker processes. Defaults to the choice of the data module.
            **arguments: Further arguments of the data module.

        Raises:
            UserError: If ``train_dataset`` is missing, ``predict_dataset`` is given, or a dataset is not map-style.
        """
        source = dataset_source(train_dataset, val_dataset, test_dataset, predict_dataset)
        return cls(source, batch_size=batch_size, num_workers=num_workers, **arguments)

    @in_own_scope
    def prepare_data(self) -> None:
        """Download the data if the source does. Lightning calls this method in one process of each machine."""
        if needs_download(self._plain_spec):
            self._reader.build()

    @in_own_scope
    def setup(self, stage: str | None = None) -> None:
        """Read the table of images, split it, and determine the facts for the model. A second call has no effect.

        Raises:
            UserError: If the data cannot be used.
        """
        if self._ready is not None:
            return
        task = self.trainer.lightning_module if self.trainer is not None and stage == "fit" else None
        if (check := getattr(task, "check_data_module", None)) is not None:
            check(self)
        source, splits = self._reader.read()
        rows = np.concatenate([splits.train, splits.val, splits.test])
        if self._on_bad_image == "error" and not source.in_memory:
            refuse_bad_images(find_bad_images(source, rows.tolist()), len(rows))
        sixteen_bit.reset()
        name, image = first_image(source, splits.train)
        size = square_side(name, image) if self._image_size is None else self._image_size
        self._build_pipelines(size, image, len(source.class_names))
        pipelines = (self.training.sample, self.eval_pipeline)
        caches = SplitCaches(source, self._plain_spec, self._cache, self._channels, pipelines)
        facts = DataFacts(
            class_names=source.class_names,
            class_counts=tuple(source.class_counts(splits.train).tolist()),
            image_size=size,
            channels=self._channels,
            eval_transforms=tuple(self._eval_specs),
            multi_label=source.multi_label,
        )
        self._ready = (LoaderFactory(source, splits, caches, self._options), facts)

    @cached_property
    def mixing(self) -> Mix | None:
        """The transform that mixes the images of a batch, or ``None``. It is available before any data is read."""
        known = {"image_size": self._image_size or 64, "in_channels": self._channels, "num_classes": 2}
        return build_training_pipeline(self._train_specs, "data.train_transforms", **known).mix

    def train_dataloader(self) -> BatchLoader:
        """Return training batches, in an order that is a function of (seed, epoch), without an incomplete last one."""
        return self._loaders.training(
            self.training.sample,
            self._seed,
            self.trainer,
            lambda: resumed_samples(self.trainer, self._options.batch_size),
        )

    def val_dataloader(self) -> BatchLoader:
        """Return validation batches: every image once over all processes."""
        return self._loaders.evaluation(self.splits.val, self.eval_pipeline, self._seed, self.trainer)

    def test_dataloader(self) -> BatchLoader:
        """Return test batches: every image once over all processes.

        Raises:
            UserError: If there is no test split.
        """
        if not len(self.splits.test):
            has_splits = any(split is not None for split in self.source.splits)
            hint = "add a test split to the source" if has_splits else "set data.test_fraction above 0"
            raise UserError(f"data: expected a test split, got none. Hint: {hint}.")
        return self._loaders.evaluation(self.splits.test, self.eval_pipeline, self._seed, self.trainer)

    def predict_dataloader(self) -> BatchLoader:
        """Return the test batches."""
        return self.test_dataloader()

    def _build_pipelines(self, size: int, image: Tensor, num_classes: int) -> None:
        """Build the transforms and try them on an image, so that errors are raised here and not in a worker."""
        facts = {"image_size": size, "in_channels": self._channels}
        self.training = build_training_pipeline(
            self._train_specs, "data.train_transforms", **facts, num_classes=num_classes
        )
        self.eval_pipeline = build_transforms(self._eval_specs, "data.eval_transforms", **facts)
        for pipeline in (self.training.sample, self.eval_pipeline):
            pipeline(to_channels(image, self._channels), position_generator(0))
