"""Noise: of the light, one draw an image, and of the pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, check_probability, per_image, to_float
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError

# the principal components of the colours of ImageNet's pixels in [0, 1]: roots of the variances, and the directions
_DEVIATIONS = (0.2175, 0.0188, 0.0045)
_DIRECTIONS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))


def add_lighting(images: Tensor, alpha: Tensor) -> Tensor:
    """The images with every pixel's colour moved along the principal components of natural colours.

    Shapes: ``images`` uint8 or float in [0, 1], ``(batch, 3, height, width)``; ``alpha`` float ``(batch, 3)``, in
    standard deviations of each component. The result is float in [0, 1].
    """
    components = torch.tensor(_DIRECTIONS, device=alpha.device) * torch.tensor(_DEVIATIONS, device=alpha.device)
    moved = alpha @ components.T
    return (to_float(images) + moved[:, :, None, None]).clamp_(0, 1)


def add_noise(images: Tensor, noise: Tensor, std: float | Tensor) -> Tensor:
    """The images plus ``std`` times ``noise``, cut off to [0, 1].

    Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``; ``noise`` likewise, or with one
    channel for all; ``std`` a number, or float ``(batch,)``.
    """
    scale = per_image(std) if isinstance(std, Tensor) else std
    return (to_float(images) + noise * scale).clamp_(0, 1)


@AUGMENTATIONS.register("lighting")
class Lighting(BatchTransform):
    """Changes the colour and the intensity of the light, by the principal components of ImageNet's colours.

    Args:
        std: standard deviation of the draw, in those of each component.
        in_channels: channels of an image; a fact. Only colour images have such components.

    Source: Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural networks",
    10.1145/3065386.

    Example::

        train_transforms: {name: lighting, std: 0.1}
    """

    def __init__(self, std: float = 0.1, in_channels: Literal[1, 3] = 3) -> None:
        if std < 0:
            raise UserError(f"`std` must be 0 or more, got {std}.")
        if in_channels != 3:
            raise UserError("lighting changes colours, and the images are grey; brightness is for them.")
        self.std = std

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return add_lighting(images, draws.normal(3) * (self.std * self.strength))


@AUGMENTATIONS.register("gaussian_noise")
class GaussianNoise(BatchTransform):
    """Adds normal noise to every pixel, each channel its own, with probability ``p``.

    Args:
        std: standard deviation of the noise, in units of [0, 1].
        p: probability that an image gets any.

    Example::

        train_transforms: {name: gaussian_noise, std: 0.02}
    """

    def __init__(self, std: float = 0.05, p: float = 1.0) -> None:
        if std < 0:
            raise UserError(f"`std` must be 0 or more, got {std}.")
        self.std = std
        self.p = check_probability(p)

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        chosen = draws.chance(self.p)
        pixels = draws.fork("pixels")
        std = self.std * self.strength

        def noisy(some: Tensor, keys: Tensor) -> Tensor:
            noise = BatchRandom(keys).normal(some[0].numel()).view(some.shape)
            return add_noise(some, noise, std)

        return apply_masked(images, chosen, noisy, pixels.keys, floating=True)
