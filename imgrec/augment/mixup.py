"""Mixing the samples of a batch with one another, by parameters that are given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Mix, check_probability, per_image, to_float
from imgrec.augment.erasing import box_mask
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError


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


class _BetaMix(Mix):
    """What mixes by a weight from a beta distribution, drawn once a batch or once a sample."""

    def __init__(self, num_classes: int, p: float, per_sample: bool, until: float) -> None:
        super().__init__(until)
        self.num_classes = num_classes
        self.p = check_probability(p)
        self.per_sample = per_sample

    def partners(self, draws: BatchRandom) -> Tensor:
        """int64 ``(batch,)``: a permutation of the batch."""
        return draws.fork("partners").uniform()[:, 0].argsort(stable=True)

    def source(self, draws: BatchRandom) -> BatchRandom:
        """What the weight is drawn from."""
        return draws.fork("weight") if self.per_sample else draws.shared()

    def weight(self, draws: BatchRandom, alpha: float) -> Tensor:
        """Float ``(1,)`` or ``(batch,)``: the sample's own part; 1, nothing is mixed, but with probability ``p``."""
        weight = draws.beta(alpha, alpha)
        return torch.where(draws.chance(self.p * self.strength), weight, torch.ones_like(weight))


@AUGMENTATIONS.register("mixup")
class Mixup(_BetaMix):
    """Blends each image, and its target, with those of another image of the batch.

    Args:
        num_classes: the number of classes; a fact.
        alpha: the weight is drawn from the beta distribution with both shapes ``alpha``: 1 is even, smaller values mix
            less.
        p: probability that anything is mixed; the strength of a schedule scales it.
        per_sample: draw a weight for each sample, not one for the batch.
        until: the fraction of training after which nothing is mixed any more.

    Source: Zhang et al. 2018, "mixup: beyond empirical risk minimization", arXiv 1710.09412.

    Example::

        train_transforms: [hflip, {name: mixup, alpha: 0.2}]
    """

    def __init__(
        self, num_classes: int, alpha: float = 0.2, p: float = 1.0, per_sample: bool = False, until: float = 1.0
    ) -> None:
        super().__init__(num_classes, p, per_sample, until)
        self.alpha = _check_alpha(alpha, "alpha")

    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:  # noqa: D102
        weight = self.weight(self.source(draws), self.alpha)
        return mixup(images, targets, weight, self.partners(draws), self.num_classes)


@AUGMENTATIONS.register("cutmix")
class CutMix(_BetaMix):
    """Pastes a box of another image of the batch into each image, and mixes the targets by its area.

    Args:
        num_classes: the number of classes; a fact.
        alpha: the image's own part is drawn from the beta distribution with both shapes ``alpha``.
        p: probability that anything is mixed; the strength of a schedule scales it.
        per_sample: draw a box for each sample, not one for the batch.
        until: the fraction of training after which nothing is mixed any more.

    Source: Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features",
    arXiv 1905.04899.

    Example::

        train_transforms: [hflip, {name: cutmix, p: 0.5, until: 0.9}]
    """

    keeps_dtype = True

    def __init__(
        self, num_classes: int, alpha: float = 1.0, p: float = 1.0, per_sample: bool = False, until: float = 1.0
    ) -> None:
        super().__init__(num_classes, p, per_sample, until)
        self.alpha = _check_alpha(alpha, "alpha")

    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:  # noqa: D102
        source = self.source(draws)
        box = cutmix_box(self.weight(source, self.alpha), source.uniform(2), *images.shape[-2:])
        return cutmix(images, targets, box, self.partners(draws), self.num_classes)


@AUGMENTATIONS.register("mixup_or_cutmix")
class MixupOrCutMix(_BetaMix):
    """Mixup for some batches, CutMix for the others.

    Args:
        num_classes: the number of classes; a fact.
        mixup_alpha: see `imgrec show augmentations mixup`.
        cutmix_alpha: see `imgrec show augmentations cutmix`.
        cutmix_p: probability that it is CutMix.
        p: probability that anything is mixed; the strength of a schedule scales it.
        per_sample: draw for each sample, not once for the batch.
        until: the fraction of training after which nothing is mixed any more.

    Source: Wightman, Touvron and Jégou 2021, "ResNet strikes back", arXiv 2110.00476.

    Example::

        train_transforms: [hflip, {name: mixup_or_cutmix, mixup_alpha: 0.1, cutmix_p: 0.5}]
    """

    def __init__(
        self,
        num_classes: int,
        mixup_alpha: float = 0.2,
        cutmix_alpha: float = 1.0,
        cutmix_p: float = 0.5,
        p: float = 1.0,
        per_sample: bool = False,
        until: float = 1.0,
    ) -> None:
        super().__init__(num_classes, p, per_sample, until)
        self.mixup_alpha = _check_alpha(mixup_alpha, "mixup_alpha")
        self.cutmix_alpha = _check_alpha(cutmix_alpha, "cutmix_alpha")
        self.cutmix_p = check_probability(cutmix_p, "cutmix_p")

    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:  # noqa: D102
        source = self.source(draws)
        cut = source.chance(self.cutmix_p)
        one = torch.ones((), device=images.device)
        blend = torch.where(cut, one, self.weight(source.fork("mixup"), self.mixup_alpha))
        left = torch.where(cut, self.weight(source.fork("cutmix"), self.cutmix_alpha), one)
        box = cutmix_box(left, source.uniform(2), *images.shape[-2:])
        # one of the two leaves everything as it is; which one, the processor need not wait for the device to say
        order = self.partners(draws)
        mask = box_mask(box, *images.shape[-2:])
        images = to_float(images)
        own = per_image(blend) * ~mask
        weight = blend * (1 - mask.float().mean(dim=(1, 2, 3)))
        return images[order].lerp_(images, own), mix_targets(targets, weight, order, self.num_classes)


def _check_alpha(alpha: float, name: str) -> float:
    if alpha <= 0:
        raise UserError(f"`{name}` must be above 0, got {alpha}.")
    return alpha
