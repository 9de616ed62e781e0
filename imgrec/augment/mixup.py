"""Mixup, CutMix, and a random choice of the two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Mix, expand_per_image, to_float
from imgrec.augment.erasing import box_mask
from imgrec.augment.random import BatchRandom
from imgrec.utils.ranges import ClosedUnitInterval, LeftOpenUnitInterval, PositiveFloat, check_ranges


def mixup(images: Tensor, targets: Tensor, weight: Tensor, order: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Interpolate each sample and its target with another sample.

    Args:
        images: uint8 or float in [0, 1], ``(batch, channels, height, width)``.
        targets: int64 ``(batch,)``, or probabilities ``(batch, num_classes)``.
        weight: float ``(batch,)`` or ``(1,)``: weight of the sample itself, in [0, 1].
        order: int64 ``(batch,)``: index of the other sample.
        num_classes: Number of classes.

    Returns:
        float images in [0, 1], and float probabilities ``(batch, num_classes)``.

    Example:
        >>> images, targets = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1), torch.tensor([0, 1])
        >>> mixed, probabilities = mixup(images, targets, torch.tensor([0.75]), torch.tensor([1, 0]), num_classes=2)
        >>> mixed.flatten().tolist(), probabilities.tolist()
        ([0.25, 0.75], [[0.75, 0.25], [0.25, 0.75]])
    """
    images = to_float(images)
    return images[order].lerp_(images, expand_per_image(weight)), mix_targets(targets, weight, order, num_classes)


def cutmix(images: Tensor, targets: Tensor, box: Tensor, order: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Replace a box of each image by the pixels of another image, and mix the targets by the area of the box.

    Args:
        images: ``(batch, channels, height, width)``, of any type.
        targets: int64 ``(batch,)``, or probabilities ``(batch, num_classes)``.
        box: int64 ``(batch, 4)`` or ``(1, 4)``: top, left, height, width. It is clipped at the border of the image.
        order: int64 ``(batch,)``: index of the other sample.
        num_classes: Number of classes.

    Returns:
        The images in their type, and float probabilities ``(batch, num_classes)``.
    """
    mask = box_mask(box, *images.shape[-2:])
    weight = 1 - mask.float().mean(dim=(1, 2, 3))
    return torch.where(mask, images[order], images), mix_targets(targets, weight, order, num_classes)


def cutmix_box(weight: Tensor, position: Tensor, height: int, width: int) -> Tensor:
    """Compute boxes of the area ``1 - weight``, clipped at the border of the image.

    Shapes: ``weight`` float ``(n,)``. ``position`` float ``(n, 2)`` in [0, 1): center of the box, down and to the
    right, in fractions of the sides. The box is int64 ``(n, 4)``: top, left, height, width.
    """
    side = (1 - weight).clamp_min(0).sqrt()
    tall, wide = (side * height).long(), (side * width).long()
    down, across = (position[:, 0] * height).long(), (position[:, 1] * width).long()
    top, left = (down - tall // 2).clamp(0, height), (across - wide // 2).clamp(0, width)
    bottom, right = (down + (tall + 1) // 2).clamp(0, height), (across + (wide + 1) // 2).clamp(0, width)
    return torch.stack([top, left, bottom - top, right - left], dim=1)


def to_probabilities(targets: Tensor, num_classes: int) -> Tensor:
    """Return targets as float ``(batch, num_classes)``: indices as one-hot rows, probabilities unchanged."""
    return targets if targets.is_floating_point() else F.one_hot(targets, num_classes).float()


def mix_targets(targets: Tensor, weight: Tensor, order: Tensor, num_classes: int) -> Tensor:
    """Interpolate the target of each sample with that of another: float ``(batch, num_classes)``. See :func:`mixup`."""
    rows = to_probabilities(targets, num_classes)
    return rows[order].lerp_(rows, weight[:, None].to(rows.dtype))


class _BetaMix(Mix):
    """Base class of mixing with a weight from a beta distribution, drawn for the batch or for each sample."""

    def __init__(self, num_classes: int, p: float, per_sample: bool, until: float) -> None:
        super().__init__(until)
        self.num_classes = num_classes
        self.p = p
        self.per_sample = per_sample

    def partners(self, draws: BatchRandom) -> Tensor:
        """Return a random permutation of the batch: int64 ``(batch,)``."""
        return draws.fork("partners").uniform()[:, 0].argsort(stable=True)

    def source(self, draws: BatchRandom) -> BatchRandom:
        """Return the random numbers for the weight."""
        return draws.fork("weight") if self.per_sample else draws.shared()

    def weight(self, draws: BatchRandom, alpha: float) -> Tensor:
        """Return the weight of the sample itself, float ``(1,)`` or ``(batch,)``: 1 with probability ``1 - p``."""
        weight = draws.beta(alpha, alpha)
        return torch.where(draws.chance(self.p * self.strength), weight, torch.ones_like(weight))


@AUGMENTATIONS.register("mixup")
class Mixup(_BetaMix):
    """Interpolation of each image and its target with another image of the batch.

    Args:
        num_classes: Number of classes, a fact.
        alpha: Both parameters of the beta distribution of the weight, above 0. 1 is uniform, smaller values mix less.
            Defaults to 0.2.
        p: Probability that a batch is mixed. ``strength`` scales it. Defaults to 1.0.
        per_sample: If True, each sample has its own weight instead of one for the batch. Defaults to False.
        until: Fraction of training after which mixing stops. Defaults to 1.0.

    Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization", arXiv 1710.09412.

    See also `cutmix` and `mixup_or_cutmix`.

    Example::

        train_transforms: [hflip, {name: mixup, alpha: 0.2}]
    """

    @check_ranges
    def __init__(
        self,
        num_classes: int,
        alpha: PositiveFloat = 0.2,
        p: ClosedUnitInterval = 1.0,
        per_sample: bool = False,
        until: LeftOpenUnitInterval = 1.0,
    ) -> None:
        super().__init__(num_classes, p, per_sample, until)
        self.alpha = alpha

    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:  # noqa: D102
        weight = self.weight(self.source(draws), self.alpha)
        return mixup(images, targets, weight, self.partners(draws), self.num_classes)


@AUGMENTATIONS.register("cutmix")
class CutMix(_BetaMix):
    """Replacement of a box of each image by another image of the batch. The targets are mixed by the area.

    Args:
        num_classes: Number of classes, a fact.
        alpha: Both parameters of the beta distribution of the remaining area, above 0. Defaults to 1.0.
        p: Probability that a batch is mixed. ``strength`` scales it. Defaults to 1.0.
        per_sample: If True, each sample has its own box instead of one for the batch. Defaults to False.
        until: Fraction of training after which mixing stops. Defaults to 1.0.

    Source: Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features",
    arXiv 1905.04899.

    See also `mixup` and `mixup_or_cutmix`.

    Example::

        train_transforms: [hflip, {name: cutmix, p: 0.5, until: 0.9}]
    """

    keeps_dtype = True

    @check_ranges
    def __init__(
        self,
        num_classes: int,
        alpha: PositiveFloat = 1.0,
        p: ClosedUnitInterval = 1.0,
        per_sample: bool = False,
        until: LeftOpenUnitInterval = 1.0,
    ) -> None:
        super().__init__(num_classes, p, per_sample, until)
        self.alpha = alpha

    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:  # noqa: D102
        source = self.source(draws)
        box = cutmix_box(self.weight(source, self.alpha), source.uniform(2), *images.shape[-2:])
        return cutmix(images, targets, box, self.partners(draws), self.num_classes)


@AUGMENTATIONS.register("mixup_or_cutmix")
class MixupOrCutMix(_BetaMix):
    """Random choice of Mixup and CutMix.

    Args:
        num_classes: Number of classes, a fact.
        mixup_alpha: Argument ``alpha`` of `mixup`. Defaults to 0.2.
        cutmix_alpha: Argument ``alpha`` of `cutmix`. Defaults to 1.0.
        cutmix_p: Probability of CutMix. Defaults to 0.5.
        p: Probability that a batch is mixed. ``strength`` scales it. Defaults to 1.0.
        per_sample: If True, each sample has its own draw instead of one for the batch. Defaults to False.
        until: Fraction of training after which mixing stops. Defaults to 1.0.

    Source: Wightman, Touvron and Jégou 2021, "ResNet strikes back", arXiv 2110.00476.

    Example::

        train_transforms: [hflip, {name: mixup_or_cutmix, mixup_alpha: 0.1, cutmix_p: 0.5}]
    """

    @check_ranges
    def __init__(
        self,
        num_classes: int,
        mixup_alpha: PositiveFloat = 0.2,
        cutmix_alpha: PositiveFloat = 1.0,
        cutmix_p: ClosedUnitInterval = 0.5,
        p: ClosedUnitInterval = 1.0,
        per_sample: bool = False,
        until: LeftOpenUnitInterval = 1.0,
    ) -> None:
        super().__init__(num_classes, p, per_sample, until)
        self.mixup_alpha = mixup_alpha
        self.cutmix_alpha = cutmix_alpha
        self.cutmix_p = cutmix_p

    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:  # noqa: D102
        source = self.source(draws)
        cut = source.chance(self.cutmix_p)
        one = torch.ones((), device=images.device)
        blend = torch.where(cut, one, self.weight(source.fork("mixup"), self.mixup_alpha))
        left = torch.where(cut, self.weight(source.fork("cutmix"), self.cutmix_alpha), one)
        box = cutmix_box(left, source.uniform(2), *images.shape[-2:])
        # one of the two has no effect, and the processor does not wait for the device to determine which one
        order = self.partners(draws)
        mask = box_mask(box, *images.shape[-2:])
        images = to_float(images)
        own = expand_per_image(blend) * ~mask
        weight = blend * (1 - mask.float().mean(dim=(1, 2, 3)))
        return images[order].lerp_(images, own), mix_targets(targets, weight, order, self.num_classes)
