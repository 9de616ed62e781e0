"""Brightness, contrast, saturation and hue of a batch, each sample by a factor of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, check_probability, per_image, to_float
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError

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


class _Factor(BatchTransform):
    """What draws a factor evenly from ``1 - amount`` (0 at least) to ``1 + amount``."""

    def __init__(self, amount: float = 0.4) -> None:
        if amount < 0:
            raise UserError(f"`amount` must be 0 or more, got {amount}.")
        self.amount = amount

    def factor(self, draws: BatchRandom) -> Tensor:
        amount = self.amount * self.strength
        return draws.uniform(low=max(0.0, 1 - amount), high=1 + amount)[:, 0]


@AUGMENTATIONS.register("brightness")
class Brightness(_Factor):
    """Makes each image brighter or darker.

    Args:
        amount: the factor is drawn evenly from ``1 - amount`` (0 at least) to ``1 + amount``.

    Example::

        train_transforms: {name: brightness, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return adjust_brightness(images, self.factor(draws))


@AUGMENTATIONS.register("contrast")
class Contrast(_Factor):
    """Moves each image towards its mean grey, or away from it.

    Args:
        amount: the factor is drawn evenly from ``1 - amount`` (0 at least) to ``1 + amount``.

    Example::

        train_transforms: {name: contrast, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return adjust_contrast(images, self.factor(draws))


@AUGMENTATIONS.register("saturation")
class Saturation(_Factor):
    """Makes the colours of each image paler or stronger.

    Args:
        amount: the factor is drawn evenly from ``1 - amount`` (0 at least) to ``1 + amount``.

    Example::

        train_transforms: {name: saturation, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return adjust_saturation(images, self.factor(draws))


@AUGMENTATIONS.register("hue")
class Hue(BatchTransform):
    """Turns the hues of each image.

    Args:
        amount: the turn is drawn evenly from ``-amount`` to ``amount``, in full circles: 0.5 at most.

    Example::

        train_transforms: {name: hue, amount: 0.05}
    """

    def __init__(self, amount: float = 0.1) -> None:
        if not 0 <= amount <= 0.5:
            raise UserError(f"`amount` must be from 0 to 0.5 of a circle, got {amount}.")
        self.amount = amount

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        amount = self.amount * self.strength
        return adjust_hue(images, draws.uniform(low=-amount, high=amount)[:, 0])


@AUGMENTATIONS.register("color_jitter")
class ColorJitter(BatchTransform):
    """Changes brightness, contrast, saturation and hue, in this order, each by a draw of its own.

    Args:
        brightness: how much; see `imgrec show augmentations brightness`. 0 leaves it as it is, and so for the others.
        contrast: how much.
        saturation: how much.
        hue: how much, in full circles.

    Source: Howard 2013, "Some improvements on deep convolutional neural network based image classification",
    arXiv 1312.5402.

    Example::

        train_transforms: {name: color_jitter, brightness: 0.4, contrast: 0.4, hue: 0.1}
    """

    def __init__(
        self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0
    ) -> None:
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        kinds: dict[str, type[_Factor] | type[Hue]] = {
            "brightness": Brightness,
            "contrast": Contrast,
            "saturation": Saturation,
            "hue": Hue,
        }
        self.parts: dict[str, BatchTransform] = {}
        for name, amount in amounts.items():
            try:
                part = kinds[name](amount)
            except UserError as error:
                raise UserError(str(error).replace("`amount`", f"`{name}`")) from error
            if amount:
                self.parts[name] = part

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        images = to_float(images)
        for name, part in self.parts.items():
            part.strength = self.strength
            images = part(images, draws.fork(name))
        return images


@AUGMENTATIONS.register("grayscale")
class Grayscale(BatchTransform):
    """Takes the colour out of an image with probability ``p``; its channels stay as many.

    Args:
        p: probability; the strength of a schedule scales it.

    Example::

        train_transforms: {name: grayscale, p: 0.2}
    """

    def __init__(self, p: float = 0.1) -> None:
        self.p = check_probability(p)

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        return apply_masked(images, draws.chance(self.p * self.strength), grayscale, floating=True)
