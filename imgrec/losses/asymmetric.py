"""The asymmetric loss: binary cross-entropy that forgets the easy ones among the classes that an image has not."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, in_range, one_of
from imgrec.losses.binary_cross_entropy import REDUCTIONS, Reduction
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    clip: float = 0.05,
    reduction: Reduction = "sum",
    class_weights: Tensor | None = None,
) -> Tensor:
    """The weighted mean over images of what every class loses, with ``p`` the sigmoid of its logit.

    A class that the image has loses ``(1 - p)^gamma_positive * -log p``; one that it has not
    ``m^gamma_negative * -log(1 - m)`` with ``m = max(p - clip, 0)``, which is nothing up to ``clip``. A share of a
    class counts as that share of having it.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float shares in [0, 1] ``(batch, num_classes)``; an image may have
            several classes or none.
        gamma_positive: how much less a sure class counts that the image has; at least 0.
        gamma_negative: how much less a sure class counts that it has not; at least 0.
        clip: below this probability a class that the image has not loses nothing; in [0, 1).
        reduction: ``sum`` or ``mean`` over the classes.
        class_weights: float ``(num_classes,)``; an image weighs what its classes weigh on average.

    Returns:
        A scalar; float32 or wider.
    """
    logits = full_precision(logits)
    shares = as_probabilities(targets, logits)
    # the floors keep the powers' gradients finite at 0 where a gamma is below 1
    tiny = torch.finfo(logits.dtype).tiny
    has = (-logits).sigmoid().clamp_min(tiny) ** gamma_positive * F.softplus(-logits)
    if clip:
        shifted = (logits.sigmoid() - clip).clamp_min(tiny)
        has_not = shifted**gamma_negative * -torch.log1p(-shifted)
    else:
        has_not = logits.sigmoid().clamp_min(tiny) ** gamma_negative * F.softplus(logits)
    losses = shares * has + (1 - shares) * has_not
    return image_mean(losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1), targets, class_weights)


@LOSSES.register("asymmetric")
class Asymmetric(ClassWeighted):
    """Binary cross-entropy with two focuses: classes that an image surely has not are forgotten (multi-label too).

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``; an
    image may have several classes or none.

    The sum over the classes is the authors'; they sum over the images as well, which are averaged here, as in timm.

    Args:
        gamma_positive: how much less a sure class counts that the image has; at least 0.
        gamma_negative: how much less a sure class counts that it has not; at least 0, and above the other.
        clip: below this probability a class that the image has not loses nothing; in [0, 1).
        reduction: ``sum`` or ``mean`` over the classes of an image.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a number out of its range, or weights that do not fit the classes.

    Source: Ridnik et al., Asymmetric Loss For Multi-Label Classification, 2021, arXiv:2009.14119.

    Example::

        model:
          loss: {name: asymmetric, gamma_negative: 4, clip: 0.05}

    >>> Asymmetric(gamma_positive=0, gamma_negative=0, clip=0)(torch.zeros(1, 3), torch.tensor([0])).exp()
    tensor(8.)
    """

    def __init__(
        self,
        gamma_positive: float = 1.0,
        gamma_negative: float = 4.0,
        clip: float = 0.05,
        reduction: Reduction = "sum",
        **weighting: Any,
    ) -> None:
        self.check_arguments(gamma_positive, gamma_negative, clip, reduction)
        super().__init__(**weighting)
        self.gamma_positive, self.gamma_negative = float(gamma_positive), float(gamma_negative)
        self.clip = float(clip)
        self.reduction: Reduction = reduction

    @staticmethod
    def check_arguments(
        gamma_positive: float = 1.0,
        gamma_negative: float = 4.0,
        clip: float = 0.05,
        reduction: str = "sum",
        class_weights: ClassWeights = None,
        **_: Any,
    ) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("gamma_positive", gamma_positive)
        in_range("gamma_negative", gamma_negative)
        in_range("clip", clip, high=1.0, open_high=True)
        one_of("reduction", reduction, REDUCTIONS)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return asymmetric_loss(
            logits, targets, self.gamma_positive, self.gamma_negative, self.clip, self.reduction, self.class_weights
        )

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"gamma_positive={self.gamma_positive}, gamma_negative={self.gamma_negative}, clip={self.clip}"
