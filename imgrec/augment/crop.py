"""The central square of an image, and borders around it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, Transform, prefers_gather
from imgrec.augment.random import BatchRandom
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


def random_crop(
    images: Tensor, top: Tensor, left: Tensor, padding: int, padding_mode: PaddingMode = "constant"
) -> Tensor:
    """A window of each image with its border, as large as the image.

    Args:
        images: ``(batch, channels, height, width)``, of any type.
        top: int64 ``(batch,)``: the window's first row in the image with its border, from 0 to ``2 * padding``.
        left: int64 ``(batch,)``: likewise its first column.
        padding: width of the border on every side, in pixels.
        padding_mode: what the border shows; see :func:`imgrec.augment.pad`.
    """
    height, width = images.shape[-2:]
    wide = pad(images, padding, padding, padding, padding, padding_mode)
    if prefers_gather(images):  # copying window by window runs at the speed of memory, a gather does not
        cut = torch.empty_like(images, memory_format=torch.contiguous_format)
        source, target = wide.numpy(), cut.numpy()
        for i, (row, column) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            target[i] = source[i, :, row : row + height, column : column + width]
        return cut
    windows = wide.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


@AUGMENTATIONS.register("random_crop")
class RandomCrop(BatchTransform):
    """Puts a border around the image and cuts a window of the old size out of a random place.

    Args:
        padding: width of the border on every side, in pixels; CIFAR's is 4.
        padding_mode: ``constant`` (black), ``edge``, ``reflect`` or ``symmetric``.

    Source: Lee et al. 2015, "Deeply-Supervised Nets", arXiv 1409.5185 (zero padding of 4, for CIFAR).

    Example::

        train_transforms: [{name: random_crop, padding: 4, padding_mode: reflect}, hflip]
    """

    keeps_dtype = True

    def __init__(self, padding: int = 4, padding_mode: PaddingMode = "constant") -> None:
        if padding < 0:
            raise UserError(f"`padding` must be 0 or more pixels, got {padding}.")
        self.padding = padding
        self.padding_mode: PaddingMode = padding_mode

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        top, left = draws.integers(0, 2 * self.padding + 1, count=2).unbind(1)
        return random_crop(images, top, left, self.padding, self.padding_mode)
