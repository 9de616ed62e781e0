"""Boxes that are blotted out."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, check_probability
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError

Fill = Literal["black", "mean", "noise"]

_TRIES = 10


def box_mask(box: Tensor, height: int, width: int) -> Tensor:
    """Which pixels are in each sample's box.

    Args:
        box: int64 ``(batch, 4)``: top, left, height and width, in pixels; what is outside of the image is cut off.
        height: rows of the image.
        width: columns of the image.

    Returns:
        bool ``(batch, 1, height, width)``.

    >>> box_mask(torch.tensor([[-1, 1, 2, 1]]), 2, 3).int().tolist()
    [[[[0, 1, 0], [0, 0, 0]]]]
    """
    top, left, tall, wide = box.unbind(1)
    rows, columns = torch.arange(height, device=box.device), torch.arange(width, device=box.device)
    down = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    across = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None]


def erase(images: Tensor, box: Tensor, value: Tensor | float = 0) -> Tensor:
    """The images with each sample's box filled.

    Shapes: ``images`` ``(batch, channels, height, width)`` of any type, which stays; ``box`` as in :func:`box_mask`;
    ``value`` a number, or a tensor that goes with the images.
    """
    value = torch.as_tensor(value, device=images.device).to(images.dtype)
    return torch.where(box_mask(box, *images.shape[-2:]), value, images)


class _Erasing(BatchTransform):
    """What erases a box with probability ``p``."""

    p: float
    fill: Fill

    keeps_dtype = True

    def boxes(self, height: int, width: int, draws: BatchRandom) -> Tensor:
        """int64 ``(batch, 4)``: one box a sample."""
        raise NotImplementedError

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
        chosen = draws.chance(self.p * self.strength)
        box = self.boxes(images.shape[-2], images.shape[-1], draws)
        return apply_masked(images, chosen, self._erased, box, draws.fork("noise").keys)

    def _erased(self, images: Tensor, box: Tensor, keys: Tensor) -> Tensor:
        if self.fill == "black":
            return erase(images, box)
        if self.fill == "mean":
            return erase(images, box, images.float().mean(dim=(2, 3), keepdim=True))
        noise = BatchRandom(keys).uniform(images[0].numel()).view(images.shape)
        return erase(images, box, noise * 256 if images.dtype == torch.uint8 else noise)


@AUGMENTATIONS.register("random_erasing")
class RandomErasing(_Erasing):
    """Blots out a box of random area, shape and place with probability ``p``.

    A box that does not fit is drawn again, ten times at most; then nothing is erased.

    Args:
        p: probability; the strength of a schedule scales it.
        scale: smallest and largest area of the box, as a part of the image's; drawn evenly.
        ratio: smallest and largest height over width of the box; its logarithm is drawn evenly.
        fill: ``black``, the image's ``mean`` colour, or ``noise``, every pixel drawn evenly.

    Source: Zhong et al. 2020, "Random erasing data augmentation", arXiv 1708.04896.

    Example::

        train_transforms: [hflip, {name: random_erasing, p: 0.25}]
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        fill: Fill = "black",
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"`scale` must be two growing numbers above 0 and up to 1, got {list(scale)}.")
        if not 0 < ratio[0] <= ratio[1]:
            raise UserError(f"`ratio` must be two growing numbers above 0, got {list(ratio)}.")
        self.p = check_probability(p)
        self.scale = (scale[0], scale[1])
        self.ratio = (ratio[0], ratio[1])
        self.fill: Fill = fill

    def boxes(self, height: int, width: int, draws: BatchRandom) -> Tensor:
        """The first of ten boxes that fits, evenly placed; an empty one where none does."""
        area = draws.uniform(_TRIES, self.scale[0], self.scale[1]) * (height * width)
        shape = draws.uniform(_TRIES, math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        tall, wide = (area * shape).sqrt().round(), (area / shape).sqrt().round()
        fits = (tall < height) & (wide < width) & (tall > 0) & (wide > 0)
        first = fits.to(torch.uint8).argmax(dim=1, keepdim=True)
        tall, wide = (tall * fits).gather(1, first)[:, 0], (wide * fits).gather(1, first)[:, 0]
        place = draws.uniform(2)
        top, left = (place[:, 0] * (height - tall + 1)).floor(), (place[:, 1] * (width - wide + 1)).floor()
        return torch.stack([top, left, tall, wide], dim=1).long()


@AUGMENTATIONS.register("cutout")
class Cutout(_Erasing):
    """Blots out a square around a random pixel; what is outside of the image is cut off.

    Args:
        size: side of the square, as a part of the image's.
        p: probability; the strength of a schedule scales it.
        fill: ``black``, the image's ``mean`` colour, or ``noise``, every pixel drawn evenly.

    Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with Cutout",
    arXiv 1708.04552.

    Example::

        train_transforms: [hflip, {name: cutout, size: 0.25}]
    """

    def __init__(self, size: float = 0.5, p: float = 1.0, fill: Fill = "black") -> None:
        if not 0 < size <= 1:
            raise UserError(f"`size` is a part of the image's side, above 0 and up to 1, got {size}.")
        self.size = size
        self.p = check_probability(p)
        self.fill: Fill = fill

    def boxes(self, height: int, width: int, draws: BatchRandom) -> Tensor:
        """A square around a pixel that is drawn evenly."""
        place = draws.uniform(2)
        tall, wide = max(1, round(self.size * height)), max(1, round(self.size * width))
        top = (place[:, 0] * height).long() - tall // 2
        left = (place[:, 1] * width).long() - wide // 2
        return torch.stack([top, left, torch.full_like(top, tall), torch.full_like(left, wide)], dim=1)
