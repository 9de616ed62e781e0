"""Batches and facts of a plain DataLoader, for tasks without a data module of imgrec."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from imgrec.errors import UserError
from imgrec.types import Batch, DataFacts

_LOOPS = {TrainerFn.FITTING: "fit_loop", TrainerFn.VALIDATING: "validate_loop", TrainerFn.TESTING: "test_loop"}


def plain_class_names(num_classes: int | None, class_names: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the class names that the user gave, or the class indices as text for a number of classes.

    Raises:
        UserError: If the number differs from the number of names, if a name is given twice, or if there is no class.
    """
    if class_names is None and num_classes is None:
        return None
    names = tuple(map(str, range(num_classes or 0))) if class_names is None else tuple(class_names)
    if num_classes is not None and num_classes != len(names):
        raise UserError(f"model.num_classes: expected {len(names)}, the number of class_names, got {num_classes}.")
    if len(set(names)) != len(names) or not names:
        raise UserError(f"model.class_names: expected one or more different names, got {list(names)}.")
    return names


def is_pair(batch: Any) -> bool:
    """Return True if a batch is a pair of tensors: images and targets."""
    return isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(each, Tensor) for each in batch)


def plain_batch(pair: Sequence[Tensor], first: int, epoch: int, step: int = 1, size: int | None = None) -> Batch:
    """Return a pair of images and targets as a batch whose ids are the positions of the samples in the data set.

    Args:
        pair: Images ``(batch, channels, height, width)``, uint8 or float in [0, 1], and targets ``(batch,)``.
        first: Position of the first sample.
        epoch: Epoch, counted from 0.
        step: Distance of the positions of two samples: the number of processes. Defaults to 1.
        size: Number of samples of the data set. Samples beyond it are padding of a distributed sampler and are
            removed. Defaults to no limit.

    Raises:
        UserError: If the shapes do not match.
    """
    images, targets = pair
    if images.ndim != 4 or len(images) != len(targets):
        raise UserError(
            "batch: expected images (batch, channels, height, width) and as many targets, got "
            f"{tuple(images.shape)} and {tuple(targets.shape)}."
        )
    positions = [first + i * step for i in range(len(images))]
    kept = [i for i, position in enumerate(positions) if size is None or position < size]
    if len(kept) < len(positions):
        images, targets = images[kept], targets[kept]
    return Batch(images, targets, tuple(str(positions[i]) for i in kept), epoch=epoch)


def facts_of_images(images: Tensor, class_names: Sequence[str]) -> DataFacts:
    """Return the facts of images ``(batch, channels, size, size)`` or ``(channels, size, size)``.

    Raises:
        UserError: If the images are not square, or do not have 1 or 3 channels.
    """
    channels, height, width = images.shape[-3:]
    if height != width or channels not in (1, 3):
        raise UserError(f"images: expected (1 or 3, size, size), got {tuple(images.shape[-3:])}.")
    return DataFacts(tuple(class_names), (), height, channels)


def facts_of_loader(trainer: Any, class_names: Sequence[str] | None) -> DataFacts | None:
    """Return the facts of the plain DataLoader of a trainer, or ``None`` if it has none.

    The class names default to the attribute ``classes`` of the data set, which data sets of torchvision have.

    Raises:
        UserError: If the samples are not pairs of an image tensor and a label, or if the classes are unknown.
    """
    loop = getattr(trainer, _LOOPS.get(trainer.state.fn, ""), None)
    loader = getattr(getattr(loop, "_data_source", None), "instance", None)
    loader = loader[0] if isinstance(loader, list | tuple) and loader else loader
    if not isinstance(loader, torch.utils.data.DataLoader):
        return None
    images = _first_images(loader)
    names = class_names if class_names is not None else _names_of(loader.dataset)
    if names is None:
        raise UserError(
            "model.num_classes: expected the number of classes or class_names, got neither. "
            "A DataLoader without a data module does not contain them."
        )
    return facts_of_images(images, names)


def size_of_data(loader: Any) -> int | None:
    """Return the number of samples of a loader, or ``None`` for an iterable data set."""
    try:
        return len(loader.dataset)
    except (AttributeError, TypeError):
        return None


def _first_images(loader: Any) -> Tensor:
    dataset = loader.dataset
    sample = next(iter(loader)) if isinstance(dataset, torch.utils.data.IterableDataset) else dataset[0]
    image = sample[0] if isinstance(sample, tuple | list) and len(sample) == 2 else None
    if not isinstance(image, Tensor):
        kind = type(sample).__name__ if image is None else f"({type(image).__name__}, ...)"
        raise UserError(f"data: expected pairs of an image tensor and a label, got {kind}.")
    return image


def _names_of(dataset: Any) -> list[str] | None:
    while isinstance(dataset, torch.utils.data.Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    return list(names) if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None
