"""Rotation, scale, translation and shear of a batch, with one resampling."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, check_bounds, to_float
from imgrec.augment.random import BatchRandom
from imgrec.utils.ranges import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, check_ranges

Border = Literal["black", "edge", "reflect"]

_BORDERS = {"black": "zeros", "edge": "border", "reflect": "reflection"}


def affine(
    images: Tensor,
    degrees: Tensor,
    translate: Tensor,
    scale: Tensor,
    shear: Tensor,
    interpolation: Literal["bilinear", "nearest"] = "bilinear",
    border: Border = "black",
) -> Tensor:
    """Apply shear, scale, rotation about the center and translation, in this order, with one resampling.

    Args:
        images: uint8 or float in [0, 1], ``(batch, channels, height, width)``.
        degrees: float ``(batch,)``: clockwise rotation.
        translate: float ``(batch, 2)``: translation to the right and down, in pixels.
        scale: float ``(batch,)``: magnification, above 0.
        shear: float ``(batch, 2)``: shear along x and along y, in degrees.
        interpolation: Interpolation of pixels. Defaults to ``bilinear``.
        border: Content outside of the image: ``black``, the last pixel (``edge``), or the mirrored image
            (``reflect``). Defaults to ``black``.

    Returns:
        float in [0, 1], of the same shape.
    """
    images = to_float(images)
    height, width = images.shape[-2:]
    angle, slope = degrees.deg2rad(), shear.deg2rad().tan()
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    rotation = _matrix(cos, -sin, sin, cos)
    matrix = rotation @ _matrix(one, zero, -slope[:, 1], one) @ _matrix(one, -slope[:, 0], zero, one)
    # all three have determinant 1, so the inverse is a swap of entries, which maps positions of the result to the input
    inverse = _matrix(matrix[:, 1, 1], -matrix[:, 0, 1], -matrix[:, 1, 0], matrix[:, 0, 0]) / scale[:, None, None]
    half = torch.tensor([width / 2, height / 2], device=images.device)
    offset = -(inverse @ translate[:, :, None]) / half[:, None]
    theta = torch.cat([inverse * half[None, None, :] / half[None, :, None], offset], dim=2).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=interpolation, padding_mode=_BORDERS[border], align_corners=False)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)


@AUGMENTATIONS.register("affine")
class Affine(BatchTransform):
    """Random rotation, scale, translation and shear, with one resampling.

    Args:
        degrees: Largest rotation, in degrees, sampled uniformly in both directions. Defaults to 15.0.
        translate: Largest translation along each axis, as a fraction of the side in [0, 1], sampled uniformly.
            Defaults to 0.0.
        scale: Range of the magnification, above 0. Its logarithm is sampled uniformly. Defaults to ``(1.0, 1.0)``.
        shear: Largest shear along each axis, in degrees below 90, sampled uniformly. Defaults to 0.0.
        interpolation: Interpolation of pixels. Defaults to ``bilinear``.
        border: Content outside of the image: ``black``, the last pixel (``edge``), or the mirrored image
            (``reflect``). Defaults to ``black``.

    Raises:
        UserError: If ``scale`` decreases.

    Example::

        train_transforms: {name: affine, degrees: 10, translate: 0.1, scale: [0.9, 1.1]}
    """

    @check_ranges
    def __init__(
        self,
        degrees: NonNegativeFloat = 15.0,
        translate: ClosedUnitInterval = 0.0,
        scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0),
        shear: Annotated[float, Ge(0), Lt(90)] = 0.0,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
        border: Border = "black",
    ) -> None:
        self.degrees = degrees
        self.translate = translate
        self.scale = check_bounds("scale", scale)
        self.shear = shear
        self.interpolation: Literal["bilinear", "nearest"] = interpolation
        self.border: Border = border

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        uniform = draws.uniform(5, -1.0, 1.0) * self.strength
        sides = torch.tensor([images.shape[-1], images.shape[-2]], device=images.device)
        low, high = math.log(self.scale[0]) * self.strength, math.log(self.scale[1]) * self.strength
        return affine(
            images,
            degrees=uniform[:, 0] * self.degrees,
            translate=uniform[:, 1:3] * self.translate * sides,
            scale=draws.uniform(low=low, high=high)[:, 0].exp(),
            shear=uniform[:, 3:5] * self.shear,
            interpolation=self.interpolation,
            border=self.border,
        )
