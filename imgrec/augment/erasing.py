"""Random erasing and Cutout: boxes of an image are replaced by black, the mean color or noise."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, check_bounds
from imgrec.augment.random import BatchRandom
from imgrec.utils.ranges import ClosedUnitInterval, LeftOpenUnitInterval, PositiveFloat, check_ranges

Fill = Literal["black", "mean", "noise"]

_TRIES = 10


def box_mask(box: Tensor, height: int, width: int) -> Tensor:
    """Return a mask of the pixels in the box of each sample.

    Args:
        box: int64 ``(batch, 4)``: top, left, height and width, in pixels. It is clipped at the border of the image.
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        bool ``(batch, 1, height, width)``.

    Example:
        >>> box_mask(torch.tensor([[-1, 1, 2, 1]]), 2, 3).int().tolist()
        [[[[0, 1, 0], [0, 0, 0]]]]
    """
    top, left, tall, wide = box.unbind(1)
    rows, columns = torch.arange(height, device=box.device), torch.arange(width, device=box.device)
    down = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


def erase(images: Tensor, box: Tensor, value: Tensor | float = 0) -> Tensor:
    """Fill the box of each sample.

    Shapes: ``images`` ``(batch, channels, height, width)`` of any type. ``box`` as in :func:`box_mask`. ``value`` a
    number, or a tensor that can be broadcast to the images. The result has the type of the images.
    """
    value = torch.as_tensor(value, device=images.device).to(images.dtype)
    return torch.where(box_mask(box, *images.shape[-2:]), value, images)


class _Erasing(BatchTransform):
    """Base class of transforms that erase a box with probability ``p``."""

    p: float
    fill: Fill

    keeps_dtype = True

    def boxes(self, height: int, width: int, draws: BatchRandom) -> Tensor:
        """Return one box for each sample: int64 ``(batch, 4)``."""
        raise NotImplementedError

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
        mask = draws.chance(self.p * self.strength)
        box = self.boxes(images.shape[-2], images.shape[-1], draws)
        return apply_masked(images, mask, self._erased, box, draws.fork("noise").keys)

    def _erased(self, images: Tensor, box: Tensor, keys: Tensor) -> Tensor:
        if self.fill == "black":
            return erase(images, box)
        if self.fill == "mean":
            return erase(images, box, images.float().mean(dim=(2, 3), keepdim=True))
        noise = BatchRandom(keys).uniform(images[0].numel()).view(images.shape)
        return erase(images, box, noise * 256 if images.dtype == torch.uint8 else noise)


@AUGMENTATIONS.register("random_erasing")
class RandomErasing(_Erasing):
    """Erasing of a box with a random area, aspect ratio and position.

    A box that is larger than the image is drawn again, up to ten times. If none fits, nothing is erased.

    See also `cutout`, whose box has a constant size.

    Args:
        p: Probability of erasing. ``strength`` scales it. Defaults to 0.5.
        scale: Range of the area of the box, as a fraction of the image in (0, 1], sampled uniformly. Defaults to
            ``(0.02, 0.33)``.
        ratio: Range of the height divided by the width. Its logarithm is sampled uniformly. Defaults to ``(0.3, 3.3)``.
        fill: ``black``, the ``mean`` color of the image, or ``noise`` (uniform). Defaults to ``black``.

    Raises:
        UserError: If ``scale`` or ``ratio`` decreases.

    Source: Zhong et al. 2020, "Random erasing data augmentation", arXiv 1708.04896.

    Example::

        train_transforms: [hflip, {name: random_erasing, p: 0.25}]
    """

    @check_ranges
    def __init__(
        self,
        p: ClosedUnitInterval = 0.5,
        scale: tuple[LeftOpenUnitInterval, LeftOpenUnitInterval] = (0.02, 0.33),
        ratio: tuple[PositiveFloat, PositiveFloat] = (0.3, 3.3),
        fill: Fill = "black",
    ) -> None:
        self.p = p
        self.scale = check_bounds("scale", scale)
        self.ratio = check_bounds("ratio", ratio)
        self.fill: Fill = fill

    def boxes(self, height: int, width: int, draws: BatchRandom) -> Tensor:
        """Return the first of ten boxes that fits, at a uniform position, or an empty box if none fits."""
        area = draws.uniform(_TRIES, self.scale[0], self.scale[1]) * (height * width)
        shape = draws.uniform(_TRIES, math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        tall, wide = (area * shape).sqrt().round(), (area / shape).sqrt().round()
        fits = (tall < height) & (wide < width) & (tall > 0) & (wide > 0)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        tall, wide = (tall * fits).gather(1, first)[:, 0], (wide * fits).gather(1, first)[:, 0]
        position = draws.uniform(2)
        top, left = (position[:, 0] * (height - tall + 1)).floor(), (position[:, 1] * (width - wide + 1)).floor()
        return torch.stack([top, left, tall, wide], dim=1).long()


@AUGMENTATIONS.register("cutout")
class Cutout(_Erasing):
    """Erasing of a square around a random pixel, clipped at the border of the image.

    See also `random_erasing`, whose box has a random size.

    Args:
        size: Side of the square, as a fraction of the side of the image in (0, 1]. Defaults to 0.5.
        p: Probability of erasing. ``strength`` scales it. Defaults to 1.0.
        fill: ``black``, the ``mean`` color of the image, or ``noise`` (uniform). Defaults to ``black``.

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with Cutout",
    arXiv 1708.04552.

    Example::

        train_transforms: [hflip, {name: cutout, size: 0.25}]
    """

    @check_ranges
    def __init__(self, size: LeftOpenUnitInterval = 0.5, p: ClosedUnitInterval = 1.0, fill: Fill = "black") -> None:
        self.size = size
        self.p = p
        self.fill: Fill = fill

    def boxes(self, height: int, width: int, draws: BatchRandom) -> Tensor:
        """Return a square around a uniformly sampled pixel."""
        position = draws.uniform(2)
        tall, wide = max(1, round(self.size * height)), max(1, round(self.size * width))
        top = (position[:, 0] * height).long() - tall // 2
        left = (position[:, 1] * width).long() - wide // 2
        return torch.stack([top, left, torch.full_like(top, tall), torch.full_like(left, wide)], dim=1)
