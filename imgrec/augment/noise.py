"""Noise: one lighting change for each image, and independent noise for each pixel."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, expand_per_image, to_float
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError
from imgrec.utils.ranges import ClosedUnitInterval, NonNegativeFloat, check_ranges

# principal components of the colors of ImageNet pixels in [0, 1]: standard deviations and directions
_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def add_lighting(images: Tensor, alpha: Tensor) -> Tensor:
    """Shift the color of every pixel along the principal components of natural colors.

    Shapes: ``images`` uint8 or float in [0, 1], ``(batch, 3, height, width)``. ``alpha`` float ``(batch, 3)``, in
    standard deviations of each component. The result is float in [0, 1].
    """
    components = torch.tensor(_DIRECTIONS, device=alpha.device) * torch.tensor(_DEVIATIONS, device=alpha.device)
    offset = alpha @ components.T
    return (to_float(images) + offset[:, :, None, None]).clamp_(0, 1)


def add_noise(images: Tensor, noise: Tensor, std: float | Tensor) -> Tensor:
    """Add ``std`` times ``noise`` to the images and clip the result to [0, 1].

    Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``. ``noise`` of the same shape, or
    with one channel for all. ``std`` a number, or float ``(batch,)``.
    """
    scale = expand_per_image(std) if isinstance(std, Tensor) else std
    return (to_float(images) + noise * scale).clamp_(0, 1)


@AUGMENTATIONS.register("lighting")
class Lighting(BatchTransform):
    """Random color and intensity of the light, along the principal components of ImageNet colors.

    Args:
        std: Standard deviation of the draw, in standard deviations of each component. Defaults to 0.1.
        in_channels: Channels of an image, a fact. Only color images have these components.

    Raises:
        UserError: If the images are gray.

    Source: Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural networks",
    10.1145/3065386.

    Example::

        train_transforms: {name: lighting, std: 0.1}
    """

    @check_ranges
    def __init__(self, std: NonNegativeFloat = 0.1, in_channels: Literal[1, 3] = 3) -> None:
        if in_channels != 3:
            raise UserError("lighting: expected color images, got gray images. Use brightness instead.")
        self.std = std

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return add_lighting(images, draws.normal(3) * (self.std * self.strength))


@AUGMENTATIONS.register("gaussian_noise")
class GaussianNoise(BatchTransform):
    """Random normal noise, independent for every pixel and channel.

    Args:
        std: Standard deviation of the noise, for images in [0, 1]. Defaults to 0.05.
        p: Probability that an image receives noise. Defaults to 1.0.

    Example::

        train_transforms: {name: gaussian_noise, std: 0.02}
    """

    @check_ranges
    def __init__(self, std: NonNegativeFloat = 0.05, p: ClosedUnitInterval = 1.0) -> None:
        self.std = std
        self.p = p

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        mask = draws.chance(self.p)
        pixels = draws.fork("pixels")
        std = self.std * self.strength

        def noisy(some: Tensor, keys: Tensor) -> Tensor:
            noise = BatchRandom(keys).normal(some[0].numel()).view(some.shape)
            return add_noise(some, noise, std)

        return apply_masked(images, mask, noisy, pixels.keys, floating=True)
