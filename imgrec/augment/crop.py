"""Center crop of one image, padding, and random crops of a padded batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, Transform, is_gather_faster
from imgrec.augment.random import BatchRandom
from imgrec.utils.ranges import NonNegativeInt, check_ranges

PaddingMode = Literal["constant", "edge", "reflect", "symmetric"]


def pad(image: Tensor, left: int, top: int, right: int, bottom: int, mode: PaddingMode = "constant") -> Tensor:
    """Pad an image or a batch. The padding can be wider than the image.

    Args:
        image: ``(..., height, width)``.
        left: Columns on the left.
        top: Rows on top.
        right: Columns on the right.
        bottom: Rows at the bottom.
        mode: ``constant`` is black. ``edge`` repeats the last pixel. ``reflect`` mirrors the image without its last
            pixel, ``symmetric`` mirrors it with the last pixel. Defaults to ``constant``.

    Example:
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
    rows = _padded_index(height, top, bottom, mode, image.device)
    columns = _padded_index(width, left, right, mode, image.device)
    return image.index_select(-2, rows).index_select(-1, columns)


def center_crop(image: Tensor, size: int) -> Tensor:
    """Crop the central ``(size, size)`` pixels. A smaller image is padded with black first."""
    image = pad_to(image, size)
    height, width = image.shape[-2:]
    top, left = round((height - size) / 2), round((width - size) / 2)
    return image[..., top : top + size, left : left + size]


def pad_to(image: Tensor, size: int, mode: PaddingMode = "constant") -> Tensor:
    """Pad both sides of each dimension that is shorter than ``size``, so that the image is in the center."""
    height, width = image.shape[-2:]
    down, across = max(0, size - height), max(0, size - width)
    return pad(image, across // 2, down // 2, (across + 1) // 2, (down + 1) // 2, mode)


def _padded_index(length: int, before: int, after: int, mode: PaddingMode, device: torch.device) -> Tensor:
    position = torch.arange(-before, length + after, device=device)
    if mode == "edge" or length == 1:
        return position.clamp(0, length - 1)
    if mode == "reflect":
        return (length - 1) - ((length - 1) - position.remainder(2 * (length - 1))).abs()
    position = position.remainder(2 * length)
    return torch.minimum(position, 2 * length - 1 - position)


@AUGMENTATIONS.register("center_crop")
class CenterCrop(Transform):
    """Central square of an image. A smaller image is padded with black.

    Args:
        image_size: Side of the square input of the model, in pixels, a fact.

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
    """Pad each image and crop a window of the original size.

    Args:
        images: ``(batch, channels, height, width)``, of any type.
        top: int64 ``(batch,)``: first row of the window in the padded image, from 0 to ``2 * padding``.
        left: int64 ``(batch,)``: first column of the window, from 0 to ``2 * padding``.
        padding: Width of the padding on every side, in pixels.
        padding_mode: Content of the padding, as in :func:`imgrec.augment.pad`. Defaults to ``constant``.
    """
    height, width = images.shape[-2:]
    padded = pad(images, padding, padding, padding, padding, padding_mode)
    if is_gather_faster(images):  # a copy of each window runs at the speed of memory, an index does not
        cropped = torch.empty_like(images, memory_format=torch.contiguous_format)
        source, target = padded.numpy(), cropped.numpy()
        for i, (row, column) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            target[i] = source[i, :, row : row + height, column : column + width]
        return cropped
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


@AUGMENTATIONS.register("random_crop")
class RandomCrop(BatchTransform):
    """Random window of the original size in the padded image.

    Use `random_resized_crop` instead for photographs, in which objects have different sizes.

    Args:
        padding: Width of the padding on every side, in pixels. Defaults to 4, the usual value for CIFAR.
        padding_mode: ``constant`` (black), ``edge``, ``reflect`` or ``symmetric``. Defaults to ``constant``.

    Source: Lee et al. 2015, "Deeply-Supervised Nets", arXiv 1409.5185 (zero padding of 4, for CIFAR).

    Example::

        train_transforms: [{name: random_crop, padding: 4, padding_mode: reflect}, hflip]
    """

    keeps_dtype = True

    @check_ranges
    def __init__(self, padding: NonNegativeInt = 4, padding_mode: PaddingMode = "constant") -> None:
        self.padding = padding
        self.padding_mode: PaddingMode = padding_mode

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        top, left = draws.integers(0, 2 * self.padding + 1, count=2).unbind(1)
        return random_crop(images, top, left, self.padding, self.padding_mode)
