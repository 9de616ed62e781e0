"""The crop of ImageNet training: any part of the image, of any size and shape within limits, resized."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Transform
from imgrec.augment.resize import Interpolation, resize_to
from imgrec.errors import UserError


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """A random box inside an image, as ``(top, left, height, width)`` in pixels.

    Its area is drawn evenly between ``scale`` of the image's, the logarithm of its width over its height evenly between
    that of ``ratio``. A box that does not fit is drawn again; after ten tries it is the largest central one whose shape
    is within ``ratio``.
    """
    area = height * width
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for _ in range(10):
        first, second = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        target = area * (scale[0] + (scale[1] - scale[0]) * first)
        shape = math.exp(low + (high - low) * second)
        box_width = round(math.sqrt(target * shape))
        box_height = round(math.sqrt(target / shape))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(torch.randint(height - box_height + 1, (), generator=generator))
            left = int(torch.randint(width - box_width + 1, (), generator=generator))
            return top, left, box_height, box_width
    box_height, box_width = height, width
    if width < ratio[0] * height:
        box_height = max(1, min(height, round(width / ratio[0])))
    elif width > ratio[1] * height:
        box_width = max(1, min(width, round(height * ratio[1])))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_resized_crop(
    image: Tensor,
    size: int,
    generator: torch.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: Interpolation = "bilinear",
    antialias: bool = True,
) -> Tensor:
    """A random box of ``image`` (:func:`random_box`), resized to ``(size, size)``."""
    top, left, height, width = random_box(image.shape[-2], image.shape[-1], scale, ratio, generator)
    box = image[..., top : top + height, left : left + width]
    return resize_to(box, size, size, interpolation, antialias)


@AUGMENTATIONS.register("random_resized_crop")
class RandomResizedCrop(Transform):
    """Cuts out a box of random area and shape and resizes it to a square.

    Args:
        image_size: side of the image that the model takes, in pixels; a fact.
        scale: smallest and largest area of the box, as a part of the image's.
        ratio: smallest and largest width over height of the box.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``.
        antialias: average over what a smaller pixel covers, as Pillow does.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", arXiv 1409.4842.

    Example::

        train_transforms: [{name: random_resized_crop, scale: [0.25, 1.0]}, hflip]
    """

    def __init__(
        self,
        image_size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        antialias: bool = True,
    ) -> None:
        if not 0 < scale[0] <= scale[1] <= 1:
            raise UserError(f"`scale` must be two growing numbers above 0 and up to 1, got {list(scale)}.")
        if not 0 < ratio[0] <= ratio[1]:
            raise UserError(f"`ratio` must be two growing numbers above 0, got {list(ratio)}.")
        self.image_size = image_size
        self.scale = (scale[0], scale[1])
        self.ratio = (ratio[0], ratio[1])
        self.interpolation: Interpolation = interpolation
        self.antialias = antialias

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return random_resized_crop(
            image, self.image_size, generator, self.scale, self.ratio, self.interpolation, self.antialias
        )
