"""The central square of an image, and borders around it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Transform

PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]


def pad(image: Tensor, left: int, top: int, right: int, bottom: int, mode: PaddingMode = "constant") -> Tensor:
    """``image`` with a border of these widths, in pixels.

    ``constant`` is black; ``edge`` repeats the last pixel; ``reflect`` mirrors without repeating it; ``symmetric``
    mirrors and repeats it. A border may be wider than the image: the mirror images then go on.

    >>> pad(torch.tensor([[[1, 2, 3]]], dtype=torch.uint8), 2, 0, 2, 0, "reflect")
    tensor([[[3, 2, 1, 2, 3, 2, 1]]], dtype=torch.uint8)
    """
    height, width = image.shape[-2:]
    if not any((left, top, right, bottom)):
        return image
    if mode == "constant":
        out = image.new_zeros(*image.shape[:-2], top + height + bottom, left + width + right)
        out[..., top : top + height, left : left + width] = image
        return out
    rows = _border_index(height, top, bottom, mode, image.device)
    columns = _border_index(width, left, right, mode, image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def center_crop(image: Tensor, size: int) -> Tensor:
    """The central ``(size, size)`` pixels; where the image is smaller, it stands in the middle of a black border."""
    image = pad_to(image, size)
    height, width = image.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[..., top : top + size, left : left + size]


def pad_to(image: Tensor, size: int, mode: PaddingMode = "constant") -> Tensor:
    """``image`` with a border on each side that is shorter than ``size``, in the middle of it."""
    height, width = image.shape[-2:]
    down, across = max(0, size - height), max(0, size - width)
    return pad(image, across // 2, down // 2, (across + 1) // 2, (down + 1) // 2, mode)


def _border_index(length: int, before: int, after: int, mode: PaddingMode, device: torch.device) -> Tensor:
    place = torch.arange(-before, length + after, device=device)
    if mode == "edge" or length == 1:
        return place.clamp(0, length - 1)
    if mode == "reflect":
        return (length - 1) - ((length - 1) - place.remainder(2 * (length - 1))).abs()
    place = place.remainder(2 * length)
    return torch.minimum(place, 2 * length - 1 - place)


@AUGMENTATIONS.register("center_crop")
class CenterCrop(Transform):
    """Cuts out the central square; an image that is smaller gets a black border around it.

    Args:
        image_size: side of the image that the model takes, in pixels; a fact.

    Example::

        train_transforms: [{name: resize, scale: 1.15}, center_crop]
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return center_crop(image, self.image_size)
