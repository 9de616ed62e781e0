"""Mirroring images."""

from __future__ import annotations

from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, check_probability
from imgrec.augment.random import BatchRandom

_LARGE = 2**15
"""Bytes of an image from which one at a time is faster on a CPU: it stays in the cache between reading and writing."""


def hflip(images: Tensor, chosen: Tensor) -> Tensor:
    """The images, left and right exchanged in the chosen ones.

    Shapes: ``images`` ``(batch, channels, height, width)``; ``chosen`` bool ``(batch,)``.
    """
    return _flip(images, chosen, -1)


def vflip(images: Tensor, chosen: Tensor) -> Tensor:
    """The images, top and bottom exchanged in the chosen ones; shapes as in :func:`hflip`."""
    return _flip(images, chosen, -2)


def _flip(images: Tensor, chosen: Tensor, dim: int) -> Tensor:
    if images.device.type != "cpu" or images[:1].nbytes < _LARGE:
        return apply_masked(images, chosen, lambda some: some.flip(dim))
    flipped = images.clone()
    for row in chosen.nonzero()[:, 0].tolist():
        flipped[row] = images[row].flip(dim)
    return flipped


@AUGMENTATIONS.register("hflip")
class HorizontalFlip(BatchTransform):
    """Exchanges left and right with probability ``p``.

    Args:
        p: probability of a flip.

    Example::

        train_transforms: hflip
    """

    keeps_dtype = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return hflip(images, draws.chance(self.p))


@AUGMENTATIONS.register("vflip")
class VerticalFlip(BatchTransform):
    """Exchanges top and bottom with probability ``p``: for images without a natural "up", seen from above say.

    Args:
        p: probability of a flip.

    Example::

        train_transforms: [hflip, vflip]
    """

    keeps_dtype = True

    def __init__(self, p: float = 0.5) -> None:
        self.p = check_probability(p)

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return vflip(images, draws.chance(self.p))
