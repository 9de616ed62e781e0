"""Horizontal and vertical flips of a batch."""

from __future__ import annotations

from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked
from imgrec.augment.random import BatchRandom
from imgrec.utils.ranges import ClosedUnitInterval, check_ranges

_LARGE = 2**15
"""Bytes per image from which a CPU flips one image after another, because each one then remains in its cache."""


def hflip(images: Tensor, mask: Tensor) -> Tensor:
    """Flip the images of a mask horizontally.

    Shapes: ``images`` ``(batch, channels, height, width)``. ``mask`` bool ``(batch,)``.
    """
    return _flip(images, mask, -1)


def vflip(images: Tensor, mask: Tensor) -> Tensor:
    """Flip the images of a mask vertically. The shapes are those of :func:`hflip`."""
    return _flip(images, mask, -2)


def _flip(images: Tensor, mask: Tensor, dim: int) -> Tensor:
    if images.device.type != "cpu" or images[:1].nbytes < _LARGE:
        return apply_masked(images, mask, lambda some: some.flip(dim))
    flipped = images.clone()
    for row in mask.nonzero()[:, 0].tolist():
        flipped[row] = images[row].flip(dim)
    return flipped


@AUGMENTATIONS.register("hflip")
class HorizontalFlip(BatchTransform):
    """Random horizontal flip.

    Args:
        p: Probability of a flip. Defaults to 0.5.

    Example::

        train_transforms: hflip
    """

    keeps_dtype = True

    @check_ranges
    def __init__(self, p: ClosedUnitInterval = 0.5) -> None:
        self.p = p

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return hflip(images, draws.chance(self.p))


@AUGMENTATIONS.register("vflip")
class VerticalFlip(BatchTransform):
    """Random vertical flip, for images without a natural orientation, such as aerial images and slides.

    Args:
        p: Probability of a flip. Defaults to 0.5.

    Example::

        train_transforms: [hflip, vflip]
    """

    keeps_dtype = True

    @check_ranges
    def __init__(self, p: ClosedUnitInterval = 0.5) -> None:
        self.p = p

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return vflip(images, draws.chance(self.p))
