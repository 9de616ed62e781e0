"""Brightness, contrast, saturation and hue of a batch, each sample by a factor of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from imgrec.augment.base import to_float
from imgrec.augment.chosen import per_image

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
"""How much red, green and blue make a grey: the luma of ITU-R BT.601, in the decimals that torchvision takes."""


def to_gray(images: Tensor) -> Tensor:
    """The luma of each pixel, float ``(batch, 1, height, width)``, of images uint8 or float in [0, 1]."""
    images = to_float(images)
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    mixed = red.mul(GRAY_WEIGHTS[0]).add_(green, alpha=GRAY_WEIGHTS[1]).add_(blue, alpha=GRAY_WEIGHTS[2])
    return mixed[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """The images times ``factor``, cut off at 1.

    Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``; ``factor`` float ``(batch,)``, 0
    or more: 1 leaves an image as it is. The result is float in [0, 1].
    """
    return (to_float(images) * per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """The images moved away from their mean grey (``factor`` above 1) or towards it; shapes as for brightness."""
    images = to_float(images)
    return _between(to_gray(images).mean(dim=(1, 2, 3), keepdim=True), images, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """The pixels moved away from their own grey (``factor`` above 1) or towards it; shapes as for brightness."""
    images = to_float(images)
    return images if images.shape[1] == 1 else _between(to_gray(images), images, factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """The hue of every pixel turned by ``shift`` of a full circle, float ``(batch,)``; grey stays grey.

    Shapes: as for brightness. Saturation and value, in the hexcone model, stay.

    Source: Smith 1978, "Color gamut transform pairs", 10.1145/965139.807361.
    """
    images = to_float(images)
    if images.shape[1] == 1:
        return images
    value, largest = images.max(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    one = chroma.clamp_min(torch.finfo(images.dtype).tiny)
    sector = torch.where(
        largest == 0, (green - blue) / one, torch.where(largest == 1, 2 + (blue - red) / one, 4 + (red - green) / one)
    )
    turned = sector + 6 * per_image(shift)
    channels = []
    for offset in (5, 3, 1):
        place = (turned + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1))
    return torch.cat(channels, dim=1)


def grayscale(images: Tensor) -> Tensor:
    """The images without colour, with as many channels as before: float ``(batch, channels, height, width)``."""
    return to_gray(images).expand_as(images)


def _between(other: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    weight = per_image(factor)
    return (images * weight).add_(other * (1 - weight)).clamp_(0, 1)
