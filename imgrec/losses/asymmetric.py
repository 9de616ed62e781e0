"""Asymmetric loss: binary cross-entropy that down-weights easy negatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, one_of
from imgrec.losses.binary_cross_entropy import REDUCTIONS, Reduction
from imgrec.losses.class_weights import ClassWeighted
from imgrec.utils.ranges import NonNegativeFloat, RightOpenUnitInterval, check_ranges


def asymmetric_loss(
    logits: Tensor,
    targets: Tensor,
    gamma_positive: float = 1.0,
    gamma_negative: float = 4.0,
    clip: float = 0.05,
    reduction: Reduction = "sum",
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the weighted mean over images of the asymmetric loss of the classes, with ``p`` the sigmoid of the logit.

    The loss of a positive class is ``(1 - p)^gamma_positive * -log p``. The loss of a negative class is
    ``m^gamma_negative * -log(1 - m)`` with ``m = max(p - clip, 0)``, which is 0 up to ``clip``. A fractional target is
    the mixture of both.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float shares in [0, 1] ``(batch, num_classes)``. An image may have
            several classes or none.
        gamma_positive: Focusing exponent of positive classes, at least 0. Defaults to 1.
        gamma_negative: Focusing exponent of negative classes, at least 0. Defaults to 4.
        clip: Probability up to which a negative class has no loss, in [0, 1). Defaults to 0.05.
        reduction: ``sum`` or ``mean`` over the classes. Defaults to ``sum``.
        class_weights: Float ``(num_classes,)``. The weight of an image is the mean weight of its classes.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> asymmetric_loss(torch.zeros(1, 3), torch.tensor([0]), gamma_positive=0, gamma_negative=0, clip=0).exp()
        tensor(8.)
    """
    logits = full_precision(logits)
    shares = as_probabilities(targets, logits)
    # the lower bounds keep the gradients of the powers finite at 0 if a gamma is below 1
    tiny = torch.finfo(logits.dtype).tiny
    positive = (-logits).sigmoid().clamp_min(tiny) ** gamma_positive * F.softplus(-logits)
    if clip:
        shifted = (logits.sigmoid() - clip).clamp_min(tiny)
        negative = shifted**gamma_negative * -torch.log1p(-shifted)
    else:
        negative = logits.sigmoid().clamp_min(tiny) ** gamma_negative * F.softplus(logits)
    losses = shares * positive + (1 - shares) * negative
    return image_mean(losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1), targets, class_weights)


@LOSSES.register("asymmetric")
class Asymmetric(ClassWeighted):
    """Asymmetric loss: binary cross-entropy with separate focusing of positive and negative classes (multi-label).

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``. An
        image may
    have several classes or none.

    As in the paper, the loss is the sum over the classes. Over the images it is the mean, as in timm, and not the sum.

    Args:
        gamma_positive: Focusing exponent of positive classes, at least 0. Defaults to 1.
        gamma_negative: Focusing exponent of negative classes, at least 0. It should exceed the other. Defaults to 4.
        clip: Probability up to which a negative class has no loss, in [0, 1). Defaults to 0.05.
        reduction: ``sum`` or ``mean`` over the classes of an image. Defaults to ``sum``.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If a number is out of range, or if the weights do not match the classes.

    See Also:
        :func:`asymmetric_loss`. Use :class:`BinaryCrossEntropy` instead if each image has one class.

    Source: Ridnik et al., Asymmetric Loss For Multi-Label Classification, 2021, arXiv:2009.14119.

    Example::

        model:
          loss: {name: asymmetric, gamma_negative: 4, clip: 0.05}

    >>> Asymmetric(gamma_positive=0, gamma_negative=0, clip=0)(torch.zeros(1, 3), torch.tensor([0])).exp()
    tensor(8.)
    """

    @check_ranges
    def __init__(
        self,
        gamma_positive: NonNegativeFloat = 1.0,
        gamma_negative: NonNegativeFloat = 4.0,
        clip: RightOpenUnitInterval = 0.05,
        reduction: Reduction = "sum",
        **weighting: Any,
    ) -> None:
        one_of("reduction", reduction, REDUCTIONS)
        super().__init__(**weighting)
        self.gamma_positive, self.gamma_negative = float(gamma_positive), float(gamma_negative)
        self.clip = float(clip)
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return asymmetric_loss(
            logits, targets, self.gamma_positive, self.gamma_negative, self.clip, self.reduction, self.class_weights
        )

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"gamma_positive={self.gamma_positive}, gamma_negative={self.gamma_negative}, clip={self.clip}"
