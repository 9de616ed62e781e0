"""Cutting a square out of an image: its centre, or anywhere."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.transform import AUGMENTATIONS, Transform
from imgrec.errors import UserError

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
    rows = _border_index(height, top, bottom, mode)
    columns = _border_index(width, left, right, mode)
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


def random_crop(
    image: Tensor, size: int, generator: torch.Generator, padding: int = 0, padding_mode: PaddingMode = "constant"
) -> Tensor:
    """A square of ``size`` pixels from a place drawn evenly over the image with its border.

    Where image and border together are smaller than the crop, the border grows as in :func:`center_crop`.
    """
    image = pad_to(pad(image, padding, padding, padding, padding, padding_mode), size, padding_mode)
    height, width = image.shape[-2:]
    top = int(torch.randint(height - size + 1, (), generator=generator))
    left = int(torch.randint(width - size + 1, (), generator=generator))
    return image[..., top : top + size, left : left + size]


def _border_index(length: int, before: int, after: int, mode: PaddingMode) -> Tensor:
    place = torch.arange(-before, length + after)
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
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return center_crop(image, self.image_size)


@AUGMENTATIONS.register("random_crop")
class RandomCrop(Transform):
    """Cuts a square out of a random place, as for CIFAR with a border of four pixels.

    An image that is smaller than the square, its border included, gets a wider border of the same kind.

    Args:
        image_size: side of the image that the model takes, in pixels; a fact.
        padding: width of the border that is added on every side first, in pixels.
        padding_mode: ``constant`` (black), ``edge``, ``reflect`` or ``symmetric``.

    Source: Lee et al. 2015, "Deeply-Supervised Nets", arXiv 1409.5185 (zero padding of 4, for CIFAR).
    """

    def __init__(self, image_size: int, padding: int = 0, padding_mode: PaddingMode = "constant") -> None:
        if padding < 0:
            raise UserError(f"`padding` must be 0 or more pixels, got {padding}.")
        self.image_size = image_size
        self.padding = padding
        self.padding_mode: PaddingMode = padding_mode

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return random_crop(image, self.image_size, generator, self.padding, self.padding_mode)
