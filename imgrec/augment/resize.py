"""Resizing: to a short side, or to both sides exactly."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Transform
from imgrec.errors import UserError

Interpolation = Literal["bilinear", "bicubic", "nearest"]


def resize_to(
    image: Tensor, height: int, width: int, interpolation: Interpolation = "bilinear", antialias: bool = True
) -> Tensor:
    """Return ``image`` with exactly this height and width.

    Args:
        image: uint8 ``(channels, height, width)``.
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.
        interpolation: how a pixel between pixels is found.
        antialias: average over what a smaller pixel covers, as Pillow does; ``nearest`` has no such choice.
    """
    if image.shape[-2:] == (height, width):
        return image
    if image.shape[0] > 1 and image.stride(0) == 0:  # equal channels, which share their memory, are resized once
        return resize_to(image[:1], height, width, interpolation, antialias).expand(image.shape[0], -1, -1)
    if interpolation == "nearest":
        return F.interpolate(image[None], size=(height, width), mode="nearest")[0]
    return F.interpolate(image[None], size=(height, width), mode=interpolation, antialias=antialias)[0]


def resize_short_side(
    image: Tensor, size: int, interpolation: Interpolation = "bilinear", antialias: bool = True
) -> Tensor:
    """``image`` with ``size`` pixels on its short side and its aspect ratio kept; the long side is rounded down.

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
    """Resizes the short side to ``image_size * scale`` pixels and keeps the aspect ratio.

    Args:
        image_size: side of the image that the model takes, in pixels; a fact.
        scale: how much longer the short side is than that: 1.143 gives 256 for 224, for a centre crop to follow.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.
        antialias: average over what a smaller pixel covers, as Pillow does.

    Example::

        train_transforms: [{name: resize, scale: 1.15}, center_crop]
    """

    def __init__(
        self, image_size: int, scale: float = 1.0, interpolation: Interpolation = "bilinear", antialias: bool = True
    ) -> None:
        if scale <= 0:
            raise UserError(f"`scale` must be above 0, got {scale}.")
        self.size = max(1, round(image_size * scale))
        self.interpolation: Interpolation = interpolation
        self.antialias = antialias

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return resize_short_side(image, self.size, self.interpolation, self.antialias)


@AUGMENTATIONS.register("squash")
class Squash(Transform):
    """Resizes both sides to ``image_size`` pixels, so that nothing is cut off and the aspect ratio is lost.

    Args:
        image_size: side of the image that the model takes, in pixels; a fact.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.
        antialias: average over what a smaller pixel covers, as Pillow does.

    Example::

        train_transforms: [squash, hflip]
    """

    def __init__(self, image_size: int, interpolation: Interpolation = "bilinear", antialias: bool = True) -> None:
        self.image_size = image_size
        self.interpolation: Interpolation = interpolation
        self.antialias = antialias

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return resize_to(image, self.image_size, self.image_size, self.interpolation, self.antialias)
