"""Mixup, CutMix, and either of them: what draws how a batch is mixed."""

from __future__ import annotations

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Mix, check_probability, to_float
from imgrec.augment.chosen import per_image
from imgrec.augment.erasing import box_mask
from imgrec.augment.mixup import cutmix, cutmix_box, mix_targets, mixup
from imgrec.augment.random import Draws
from imgrec.errors import UserError


class _BetaMix(Mix):
    """What mixes by a weight from a beta distribution, drawn once a batch or once a sample."""

    def __init__(self, num_classes: int, p: float, per_sample: bool, until: float) -> None:
        super().__init__(until)
        self.num_classes = num_classes
        self.p = check_probability(p)
        self.per_sample = per_sample

    def partners(self, draws: Draws) -> Tensor:
        """int64 ``(batch,)``: a permutation of the batch."""
        return draws.fork("partners").uniform()[:, 0].argsort(stable=True)

    def source(self, draws: Draws) -> Draws:
        """What the weight is drawn from."""
        return draws.fork("weight") if self.per_sample else draws.shared()

    def weight(self, draws: Draws, alpha: float) -> Tensor:
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

    def __call__(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:  # noqa: D102
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

    def __call__(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:  # noqa: D102
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

    def __call__(self, images: Tensor, targets: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:  # noqa: D102
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
