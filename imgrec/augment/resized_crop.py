"""Random resized crop, the standard crop of ImageNet training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Transform, check_bounds
from imgrec.augment.resize import Interpolation, resize_to
from imgrec.utils.ranges import LeftOpenUnitInterval, PositiveFloat, check_ranges


def random_box(
    height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw a random box inside an image, as ``(top, left, height, width)`` in pixels.

    A box that is larger than the image is drawn again. After ten attempts, it is the largest central box whose aspect
    ratio is within ``ratio``.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        scale: Range of the area, as a fraction of the image, sampled uniformly.
        ratio: Range of the width divided by the height. Its logarithm is sampled uniformly.
        generator: Source of the random numbers.
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
    """Crop a random box of an image (:func:`random_box`) and resize it to ``(size, size)``."""
    top, left, height, width = random_box(image.shape[-2], image.shape[-1], scale, ratio, generator)
    box = image[..., top : top + height, left : left + width]
    return resize_to(box, size, size, interpolation, antialias)


@AUGMENTATIONS.register("random_resized_crop")
class RandomResizedCrop(Transform):
    """Random box of an image, resized to a square.

    Use `random_crop` instead for small images with objects of one size, such as CIFAR.

    Args:
        image_size: Side of the square input of the model, in pixels, a fact.
        scale: Range of the area of the box, as a fraction of the image in (0, 1]. Defaults to ``(0.08, 1.0)``.
        ratio: Range of the width divided by the height. Defaults to ``(3/4, 4/3)``.
        interpolation: ``bilinear``, ``bicubic`` or ``nearest``. Defaults to ``bilinear``.
        antialias: Average over the area of a smaller pixel, as Pillow does. Defaults to True.

    Raises:
        UserError: If ``scale`` or ``ratio`` decreases.

    Source: Szegedy et al. 2015, "Going deeper with convolutions", arXiv 1409.4842.

    Example::

        train_transforms: [{name: random_resized_crop, scale: [0.25, 1.0]}, hflip]
    """

    @check_ranges
    def __init__(
        self,
        image_size: int,
        scale: tuple[LeftOpenUnitInterval, LeftOpenUnitInterval] = (0.08, 1.0),
        ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3),
        interpolation: Interpolation = "bilinear",
        antialias: bool = True,
    ) -> None:
        self.image_size = image_size
        self.scale = check_bounds("scale", scale)
        self.ratio = check_bounds("ratio", ratio)
        self.interpolation: Interpolation = interpolation
        self.antialias = antialias

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return random_resized_crop(
            image, self.image_size, generator, self.scale, self.ratio, self.interpolation, self.antialias
        )
