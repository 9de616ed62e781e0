"""Resizing to a short side, or to both sides."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Transform
from imgrec.utils.ranges import PositiveFloat, check_ranges

Interpolation = Literal["bilinear", "bicubic", "nearest"]


def resize_to(
    image: Tensor, height: int, width: int, interpolation: Interpolation = "bilinear", antialias: bool = True
) -> Tensor:
    """Resize an image to a height and a width.

    Args:
        image: uint8 ``(channels, height, width)``.
        height: Rows of the result, in pixels.
        width: Columns of the result, in pixels.
        interpolation: Interpolation of pixels. Defaults to ``bilinear``.
        antialias: Average over the area of a smaller pixel, as Pillow does. Not used by ``nearest``. Defaults to True.
    """
    if image.shape[-2:] == (height, width):
        return image
    if image.shape[0] > 1 and image.stride(0) == 0:  # equal channels that share their memory are resized once
        return resize_to(image[:1], height, width, interpolation, antialias).expand(image.shape[0], -1, -1)
    if interpolation == "nearest":
        return F.interpolate(image[None], size=(height, width), mode="nearest")[0]
    return F.interpolate(image[None], size=(height, width), mode=interpolation, antialias=antialias)[0]


def resize_short_side(
    image: Tensor, size: int, interpolation: Interpolation = "bilinear", antialias: bool = True
) -> Tensor:
    """Resize the short side of an image to ``size`` pixels. The long side keeps the aspect ratio and is rounded down.

    Example:
        >>> resize_short_side(torch.zeros(3, 40, 60, dtype=torch.uint8), 30).shape
        torch.Size([3, 30, 45])
    """
    height, width = image.shape[-2:]
    short, long = sorted((height, width))
    other = int(size * long / short)
    new = (size, other) if height <= width else (other, size)
    return resize_to(image, *new, interpolation, antialias)


@AUGMENTATIONS.register("resize")
class Resize(Transform):
    """Resizing of the short side to ``image_size * scale`` pixels with the aspect ratio kept.

    Use `squash` instead to keep the whole image in a square.

    Args:
        image_size: Side of the square input of the model, in pixels, a fact.
        scale: Ratio of the short side to ``image_size``, above 0. 1.143 gives 256 for 224, for a center crop to follow.
            Defaults to 1.0.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``. Defaults to ``bilinear``.
        antialias: Average over the area of a smaller pixel, as Pillow does. Defaults to True.

    Example::

        train_transforms: [{name: resize, scale: 1.15}, center_crop]
    """

    @check_ranges
    def __init__(
        self,
        image_size: int,
        scale: PositiveFloat = 1.0,
        interpolation: Interpolation = "bilinear",
        antialias: bool = True,
    ) -> None:
        self.size = max(1, round(image_size * scale))
        self.interpolation: Interpolation = interpolation
        self.antialias = antialias

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return resize_short_side(image, self.size, self.interpolation, self.antialias)


@AUGMENTATIONS.register("squash")
class Squash(Transform):
    """Resizing of both sides to ``image_size`` pixels. The whole image is kept, its aspect ratio is not.

    Use `resize` and `center_crop` instead to keep the aspect ratio.

    Args:
        image_size: Side of the square input of the model, in pixels, a fact.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``. Defaults to ``bilinear``.
        antialias: Average over the area of a smaller pixel, as Pillow does. Defaults to True.

    Example::

        train_transforms: [squash, hflip]
    """

    def __init__(self, image_size: int, interpolation: Interpolation = "bilinear", antialias: bool = True) -> None:
        self.image_size = image_size
        self.interpolation: Interpolation = interpolation
        self.antialias = antialias

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return resize_to(image, self.image_size, self.image_size, self.interpolation, self.antialias)
