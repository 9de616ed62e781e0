"""Rotation, scale, translation and shear of a batch, as one resampling."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, to_float
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError

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
    """The images sheared, then scaled, then turned about their centre, then moved, in one resampling.

    Args:
        images: uint8 or float in [0, 1], ``(batch, channels, height, width)``.
        degrees: float ``(batch,)``: clockwise turn.
        translate: float ``(batch, 2)``: move to the right and down, in pixels.
        scale: float ``(batch,)``: 2 shows everything twice as large.
        shear: float ``(batch, 2)``: lean along x and along y, in degrees.
        interpolation: how a pixel between pixels is found.
        border: what is seen where no image is: ``black``, the last pixel (``edge``), or the image mirrored.
    """
    images = to_float(images)
    height, width = images.shape[-2:]
    turn, lean = degrees.deg2rad(), shear.deg2rad().tan()
    cos, sin, zero, one = turn.cos(), turn.sin(), torch.zeros_like(turn), torch.ones_like(turn)
    rotation = _matrix(cos, -sin, sin, cos)
    matrix = rotation @ _matrix(one, zero, -lean[:, 1], one) @ _matrix(one, -lean[:, 0], zero, one)
    # all three have determinant 1, so the inverse is a swap; it says for each place of the result where to look
    inverse = _matrix(matrix[:, 1, 1], -matrix[:, 0, 1], -matrix[:, 1, 0], matrix[:, 0, 0]) / scale[:, None, None]
    half = torch.tensor([width / 2, height / 2], device=images.device)
    moved = -(inverse @ translate[:, :, None]) / half[:, None]
    theta = torch.cat([inverse * half[None, None, :] / half[None, :, None], moved], dim=2).to(images.dtype)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode=interpolation, padding_mode=_BORDERS[border], align_corners=False)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)


@AUGMENTATIONS.register("affine")
class Affine(BatchTransform):
    """Turns, scales, moves and leans each image, in one resampling.

    Args:
        degrees: the turn is drawn evenly from ``-degrees`` to ``degrees``.
        translate: the move on either axis is drawn evenly, up to this part of the side.
        scale: smallest and largest scale; its logarithm is drawn evenly.
        shear: the lean along either axis is drawn evenly, up to this many degrees.
        interpolation: how a pixel between pixels is found.
        border: what is seen where no image is: ``black``, the last pixel (``edge``), or the image mirrored
            (``reflect``).

    Example::

        train_transforms: {name: affine, degrees: 10, translate: 0.1, scale: [0.9, 1.1]}
    """

    def __init__(
        self,
        degrees: float = 15.0,
        translate: float = 0.0,
        scale: tuple[float, float] = (1.0, 1.0),
        shear: float = 0.0,
        interpolation: Literal["bilinear", "nearest"] = "bilinear",
        border: Border = "black",
    ) -> None:
        if degrees < 0 or not 0 <= translate <= 1:
            raise UserError(f"`degrees` must be 0 or more and `translate` from 0 to 1, got {degrees} and {translate}.")
        if not 0 < scale[0] <= scale[1]:
            raise UserError(f"`scale` must be two growing numbers above 0, got {list(scale)}.")
        if not 0 <= shear < 90:
            raise UserError(f"`shear` must be from 0 to below 90 degrees, got {shear}.")
        self.degrees = degrees
        self.translate = translate
        self.scale = (scale[0], scale[1])
        self.shear = shear
        self.interpolation: Literal["bilinear", "nearest"] = interpolation
        self.border: Border = border

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        even = draws.uniform(5, -1.0, 1.0) * self.strength
        sides = torch.tensor([images.shape[-1], images.shape[-2]], device=images.device)
        low, high = math.log(self.scale[0]) * self.strength, math.log(self.scale[1]) * self.strength
        return affine(
            images,
            degrees=even[:, 0] * self.degrees,
            translate=even[:, 1:3] * self.translate * sides,
            scale=draws.uniform(low=low, high=high)[:, 0].exp(),
            shear=even[:, 3:5] * self.shear,
            interpolation=self.interpolation,
            border=self.border,
        )
