"""Brightness, contrast, saturation, hue and grayscale of a batch, with independent factors for every sample."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, expand_per_image, to_float
from imgrec.augment.random import BatchRandom
from imgrec.utils.ranges import ClosedUnitInterval, NonNegativeFloat, check_ranges

GRAY_WEIGHTS = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in gray: the luma of ITU-R BT.601, in the decimals of torchvision."""

HueShift = Annotated[float, Ge(0), Le(0.5)]


def to_gray(images: Tensor) -> Tensor:
    """Return the luma of each pixel.

    Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``. The result is float
    ``(batch, 1, height, width)``.
    """
    images = to_float(images)
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    mixed = red.mul(GRAY_WEIGHTS[0]).add_(green, alpha=GRAY_WEIGHTS[1]).add_(blue, alpha=GRAY_WEIGHTS[2])
    return mixed[:, None]


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply the images by ``factor`` and clip the result at 1.

    Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``. ``factor`` float ``(batch,)``, at
    least 0, 1 for no change. The result is float in [0, 1].
    """
    return (to_float(images) * expand_per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the difference of the pixels to the mean gray of their image. The shapes are those of brightness."""
    images = to_float(images)
    return _interpolate(to_gray(images).mean(dim=(1, 2, 3), keepdim=True), images, factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Scale the difference of the pixels to their own gray. The shapes are those of brightness."""
    images = to_float(images)
    return images if images.shape[1] == 1 else _interpolate(to_gray(images), images, factor)


def adjust_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Shift the hue of every pixel. Saturation and value in the hexcone model are unchanged.

    Shapes: ``images`` as for brightness. ``shift`` float ``(batch,)``, in full circles.

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
    shifted = sector + 6 * expand_per_image(shift)
    channels = []
    for offset in (5, 3, 1):
        position = (shifted + offset).remainder(6)
        channels.append(value - chroma * torch.minimum(position, 4 - position).clamp_(0, 1))
    return torch.cat(channels, dim=1)


def grayscale(images: Tensor) -> Tensor:
    """Return gray images with the same number of channels: float ``(batch, channels, height, width)``."""
    return to_gray(images).expand_as(images)


def _interpolate(reference: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    weight = expand_per_image(factor)
    return (images * weight).add_(reference * (1 - weight)).clamp_(0, 1)


class _Factor(BatchTransform):
    """Base class of transforms with a factor that is sampled uniformly from ``1 - amount`` to ``1 + amount``."""

    @check_ranges
    def __init__(self, amount: NonNegativeFloat = 0.4) -> None:
        self.amount = amount

    def factor(self, draws: BatchRandom) -> Tensor:
        amount = self.amount * self.strength
        return draws.uniform(low=max(0.0, 1 - amount), high=1 + amount)[:, 0]


@AUGMENTATIONS.register("brightness")
class Brightness(_Factor):
    """Random brightness.

    Args:
        amount: Half of the range of the factor, which is sampled uniformly from ``1 - amount``, at least 0, to
            ``1 + amount``. Defaults to 0.4.

    Example::

        train_transforms: {name: brightness, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return adjust_brightness(images, self.factor(draws))


@AUGMENTATIONS.register("contrast")
class Contrast(_Factor):
    """Random contrast: the difference of the pixels to the mean gray of their image is scaled.

    Args:
        amount: Half of the range of the factor, which is sampled uniformly from ``1 - amount``, at least 0, to
            ``1 + amount``. Defaults to 0.4.

    Example::

        train_transforms: {name: contrast, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return adjust_contrast(images, self.factor(draws))


@AUGMENTATIONS.register("saturation")
class Saturation(_Factor):
    """Random color saturation.

    Args:
        amount: Half of the range of the factor, which is sampled uniformly from ``1 - amount``, at least 0, to
            ``1 + amount``. Defaults to 0.4.

    Example::

        train_transforms: {name: saturation, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return adjust_saturation(images, self.factor(draws))


@AUGMENTATIONS.register("hue")
class Hue(BatchTransform):
    """Random hue.

    Args:
        amount: Largest shift, in full circles, at most 0.5. The shift is sampled uniformly from ``-amount`` to
            ``amount``. Defaults to 0.1.

    Example::

        train_transforms: {name: hue, amount: 0.05}
    """

    @check_ranges
    def __init__(self, amount: HueShift = 0.1) -> None:
        self.amount = amount

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        amount = self.amount * self.strength
        return adjust_hue(images, draws.uniform(low=-amount, high=amount)[:, 0])


@AUGMENTATIONS.register("color_jitter")
class ColorJitter(BatchTransform):
    """Random brightness, contrast, saturation and hue, applied in this order with independent draws.

    Args:
        brightness: Amount of the augmentation `brightness`, 0 for no change. Defaults to 0.4.
        contrast: Amount of the augmentation `contrast`, 0 for no change. Defaults to 0.4.
        saturation: Amount of the augmentation `saturation`, 0 for no change. Defaults to 0.4.
        hue: Largest shift of the hue, in full circles, at most 0.5. Defaults to 0.0.

    Source: Howard 2013, "Some improvements on deep convolutional neural network based image classification",
    arXiv 1312.5402.

    Example::

        train_transforms: {name: color_jitter, brightness: 0.4, contrast: 0.4, hue: 0.1}
    """

    @check_ranges
    def __init__(
        self,
        brightness: NonNegativeFloat = 0.4,
        contrast: NonNegativeFloat = 0.4,
        saturation: NonNegativeFloat = 0.4,
        hue: HueShift = 0.0,
    ) -> None:
        parts: dict[str, BatchTransform] = {
            "brightness": Brightness(brightness),
            "contrast": Contrast(contrast),
            "saturation": Saturation(saturation),
            "hue": Hue(hue),
        }
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        self.parts = {name: part for name, part in parts.items() if amounts[name]}

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        images = to_float(images)
        for name, part in self.parts.items():
            part.strength = self.strength
            images = part(images, draws.fork(name))
        return images


@AUGMENTATIONS.register("grayscale")
class Grayscale(BatchTransform):
    """Random conversion to gray with the same number of channels.

    Args:
        p: Probability of the conversion. ``strength`` scales it. Defaults to 0.1.

    Example::

        train_transforms: {name: grayscale, p: 0.2}
    """

    @check_ranges
    def __init__(self, p: ClosedUnitInterval = 0.1) -> None:
        self.p = p

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return apply_masked(images, draws.chance(self.p * self.strength), grayscale, floating=True)
