"""The three kinds of augmentation, their registry, and functions that all of them use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.utils.ranges import LeftOpenUnitInterval, check_ranges


class Transform(ABC):
    """Base class of transforms of a single image, applied by the loader.

    All random numbers must be drawn from the given generator. The loader seeds it by (seed, epoch, sample). A draw
    therefore does not depend on the worker process or on earlier draws. A deterministic transform ignores it.

    See also :class:`BatchTransform`, which is faster if the operation is possible for a whole batch.

    Example:
        >>> class Invert(Transform):
        ...     def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        ...         return 255 - image
        >>> Invert()(torch.zeros(1, 1, 1, dtype=torch.uint8), torch.Generator()).item()
        255
    """

    kind: ClassVar[str] = "image"
    """Mark in the output of `imgrec list augmentations`."""

    @abstractmethod
    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Return the transformed image. The input must not be modified.

        Shapes: ``image`` uint8 ``(channels, height, width)``. The result is uint8 of any height and width.
        """


class BatchTransform(ABC):
    """Base class of transforms of a whole batch on the device, with an independent draw for every sample.

    ``strength``, from 0 to 1, scales the size of the change. A schedule can increase it during training. Transforms
    that only draw a position or a side, such as a crop or a flip, ignore it.

    Example:
        >>> class Darken(BatchTransform):
        ...     def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
        ...         return to_float(images) * (1 - self.strength * draws.uniform())[:, :, None, None]
        >>> Darken()(torch.ones(2, 1, 1, 1), BatchRandom(torch.tensor([1, 2]))).shape
        torch.Size([2, 1, 1, 1])
    """

    kind: ClassVar[str] = "batch"
    keeps_dtype: ClassVar[bool] = False
    """True if uint8 images always remain uint8. False if they can become float in [0, 1]."""
    strength: float = 1.0

    @abstractmethod
    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
        """Return the transformed images. The input must not be modified.

        Shapes: ``images`` uint8, or float in [0, 1], ``(batch, channels, height, width)``. The result has the same
        shape. uint8 remains uint8 only if the transform moves or replaces pixels.
        """


class Mix(ABC):
    """Base class of transforms that mix the samples of a batch and their targets.

    Args:
        until: Fraction of training, in (0, 1], after which mixing stops. Defaults to 1.0.
    """

    kind: ClassVar[str] = "mix"
    keeps_dtype: ClassVar[bool] = False
    """True if uint8 images always remain uint8. False if they can become float in [0, 1]."""
    strength: float = 1.0

    @check_ranges
    def __init__(self, until: LeftOpenUnitInterval = 1.0) -> None:
        self.until = until

    @abstractmethod
    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:
        """Return the mixed images and targets.

        Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``. ``targets`` int64
        ``(batch,)`` or float ``(batch, num_classes)``. The resulting targets are float ``(batch, num_classes)``.
        """


Augmentation = Transform | BatchTransform | Mix

AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation", "augmentations", specific=("alpha", "scale", "ratio", "sigma", "std")
)
"""Transforms of single images, of batches, and mixing, by their name in ``data.train_transforms``."""


def to_float(images: Tensor) -> Tensor:
    """Return images as float in [0, 1]: uint8 is divided by 255, float is returned unchanged.

    Example:
        >>> to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
        [0.0, 1.0]
    """
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def expand_per_image(values: Tensor) -> Tensor:
    """Return one number for each sample, ``(batch,)``, in the shape ``(batch, 1, 1, 1)`` for images."""
    return values[:, None, None, None]


def is_gather_faster(images: Tensor) -> bool:
    """Return True if it is faster to process a part of the batch. A GPU would have to wait for the size of the part."""
    return images.device.type == "cpu"


def apply_masked(
    images: Tensor, mask: Tensor, change: Callable[..., Tensor], *parameters: Tensor, floating: bool = False
) -> Tensor:
    """Return the images with ``change(images, *parameters)`` applied to the samples of a mask.

    On a CPU, the change is computed for these samples only. On a GPU it is computed for all samples.

    Args:
        images: ``(batch, channels, height, width)``.
        mask: bool ``(batch,)``.
        change: Function of images and parameters.
        *parameters: ``(batch, ...)``, one row for each sample.
        floating: If True, all images are converted to float in [0, 1] first.

    Example:
        >>> apply_masked(torch.ones(2, 1, 1, 1), torch.tensor([True, False]), lambda some: -some).flatten().tolist()
        [-1.0, 1.0]
    """
    images = to_float(images) if floating else images
    if not is_gather_faster(images):
        return torch.where(expand_per_image(mask), change(images, *parameters), images)
    rows = mask.nonzero()[:, 0]
    if len(rows) == len(images):
        return change(images, *parameters)
    changed = images.clone()
    if len(rows):
        changed[rows] = change(images[rows], *(each[rows] for each in parameters))
    return changed


def check_bounds(name: str, bounds: Sequence[float]) -> tuple[float, float]:
    """Return the two ends of an interval.

    Args:
        name: Name of the argument, for the message.
        bounds: Lower and upper end.

    Raises:
        UserError: If there are not two ends, or if they decrease.
    """
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise UserError(f"{name}: expected (min, max) with min <= max, got {list(bounds)}.")
    return bounds[0], bounds[1]
