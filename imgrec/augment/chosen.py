"""Changing some of the samples of a batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from imgrec.augment.base import to_float


def gathers(images: Tensor) -> bool:
    """Whether a part of a batch is worth gathering: on a GPU its size would have to be waited for."""
    return images.device.type == "cpu"


def per_image(values: Tensor) -> Tensor:
    """One number a sample, ``(batch,)``, as it goes with images: ``(batch, 1, 1, 1)``."""
    return values[:, None, None, None]


def change_chosen(
    images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor, floating: bool = False
) -> Tensor:
    """The images, with ``change(images, *parameters)`` in the place of the chosen ones.

    On a CPU only the chosen ones are computed, on a GPU all are.

    Args:
        images: ``(batch, channels, height, width)``.
        chosen: bool ``(batch,)``.
        change: takes images and parameters of some of the samples.
        *parameters: ``(batch, ...)``, one row a sample.
        floating: the change is of float images in [0, 1], so all become that.
    """
    images = to_float(images) if floating else images
    if not gathers(images):
        return torch.where(per_image(chosen), change(images, *parameters), images)
    rows = chosen.nonzero()[:, 0]
    if len(rows) == len(images):
        return change(images, *parameters)
    changed = images.clone()
    if len(rows):
        changed[rows] = change(images[rows], *(each[rows] for each in parameters))
    return changed
