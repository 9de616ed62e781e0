"""Mixing the samples of a batch with one another, by parameters that are given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import to_float
from imgrec.augment.chosen import per_image
from imgrec.augment.erasing import box_mask


def mixup(images: Tensor, targets: Tensor, weight: Tensor, order: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Each sample, blended with its partner.

    Args:
        images: uint8 or float in [0, 1], ``(batch, channels, height, width)``.
        targets: int64 ``(batch,)``, or probabilities ``(batch, num_classes)``.
        weight: float ``(batch,)`` or ``(1,)``: the sample's own part; the rest is its partner's.
        order: int64 ``(batch,)``: the place of each sample's partner.
        num_classes: the number of classes.

    Returns:
        float images in [0, 1]; float probabilities ``(batch, num_classes)``.
    """
    images = to_float(images)
    return images[order].lerp_(images, per_image(weight)), mix_targets(targets, weight, order, num_classes)


def cutmix(images: Tensor, targets: Tensor, box: Tensor, order: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Each sample, with a box of its partner's pixels; the targets are mixed by the area that is really pasted.

    Args:
        images: ``(batch, channels, height, width)``, of any type, which stays.
        targets: int64 ``(batch,)``, or probabilities ``(batch, num_classes)``.
        box: int64 ``(batch, 4)`` or ``(1, 4)``: top, left, height, width; what is outside of the image is cut off.
        order: int64 ``(batch,)``: the place of each sample's partner.
        num_classes: the number of classes.

    Returns:
        The images; float probabilities ``(batch, num_classes)``.
    """
    mask = box_mask(box, *images.shape[-2:])
    weight = 1 - mask.float().mean(dim=(1, 2, 3))
    return torch.where(mask, images[order], images), mix_targets(targets, weight, order, num_classes)


def cutmix_box(weight: Tensor, place: Tensor, height: int, width: int) -> Tensor:
    """The box that is to leave a sample ``weight`` of its area, if it is not cut off.

    Shapes: ``weight`` float ``(n,)``; ``place`` float ``(n, 2)`` in [0, 1), the centre, down and to the right, in parts
    of the sides; the box int64 ``(n, 4)``: top, left, height, width, inside the image.
    """
    side = (1 - weight).clamp_min(0).sqrt()
    tall, wide = (side * height).long(), (side * width).long()
    down, across = (place[:, 0] * height).long(), (place[:, 1] * width).long()
    top, left = (down - tall // 2).clamp(0, height), (across - wide // 2).clamp(0, width)
    bottom, right = (down + (tall + 1) // 2).clamp(0, height), (across + (wide + 1) // 2).clamp(0, width)
    return torch.stack([top, left, bottom - top, right - left], dim=1)


def to_probabilities(targets: Tensor, num_classes: int) -> Tensor:
    """Float ``(batch, num_classes)``: class indices as one-hot rows, probabilities as they are."""
    return targets if targets.is_floating_point() else F.one_hot(targets, num_classes).float()


def mix_targets(targets: Tensor, weight: Tensor, order: Tensor, num_classes: int) -> Tensor:
    """Each sample's target, blended with its partner's: float ``(batch, num_classes)``; see :func:`mixup`."""
    rows = to_probabilities(targets, num_classes)
    return rows[order].lerp_(rows, weight[:, None].to(rows.dtype))
