"""How far the probabilities are from the target: the Brier score, and Huber's distance."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, in_range, one_of
from imgrec.losses.binary_cross_entropy import REDUCTIONS, Reduction
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights


def brier_score(
    logits: Tensor, targets: Tensor, reduction: Reduction = "sum", class_weights: Tensor | None = None
) -> Tensor:
    """The weighted mean over images of the sum over classes of ``(q - p)^2``, with ``q`` the softmax of the logits.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``, which are ``p``.
        reduction: ``sum`` or ``mean`` over the classes.
        class_weights: float ``(num_classes,)``; an image weighs what its classes weigh on average.

    Returns:
        A scalar in [0, 2]; float32 or wider.

    >>> import torch
    >>> brier_score(torch.zeros(1, 4), torch.tensor([0]))
    tensor(0.7500)
    """
    q = full_precision(logits).softmax(dim=1)
    losses = (q - as_probabilities(targets, q)).square()
    return image_mean(losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1), targets, class_weights)


def huber_score(
    logits: Tensor,
    targets: Tensor,
    delta: float = 0.5,
    reduction: Reduction = "sum",
    class_weights: Tensor | None = None,
) -> Tensor:
    """The weighted mean over images of Huber's distance between ``q`` and the target, summed over the classes.

    Of a difference ``d`` that is ``d^2 / 2`` up to delta and ``delta * (|d| - delta / 2)`` above it.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        delta: where the square ends and the line begins, above 0; from 1 on it is half the Brier score.
        reduction: ``sum`` or ``mean`` over the classes.
        class_weights: float ``(num_classes,)``; an image weighs what its classes weigh on average.

    Returns:
        A scalar; float32 or wider.
    """
    q = full_precision(logits).softmax(dim=1)
    losses = F.huber_loss(q, as_probabilities(targets, q), reduction="none", delta=delta)
    return image_mean(losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1), targets, class_weights)


@LOSSES.register("brier")
class Brier(ClassWeighted):
    """The squared distance between the probabilities and the target: the mean squared error, bounded and proper.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    It lies in [0, 2] and is least where the probabilities are right; a wrong label does so much harm and no more. It
    learns more slowly than cross-entropy from what the network is surely wrong about.

    Args:
        reduction: ``sum`` over the classes of an image, as Brier had it, or ``mean``.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: weights that do not fit the classes.

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, Monthly Weather Review 78.

    Example::

        model:
          loss: brier

    >>> import torch
    >>> Brier()(torch.tensor([[100.0, 0.0]]), torch.tensor([1]))
    tensor(2.)
    """

    def __init__(self, reduction: Reduction = "sum", **weighting: Any) -> None:
        self.check_arguments(reduction)
        super().__init__(**weighting)
        self.reduction: Reduction = reduction

    @staticmethod
    def check_arguments(reduction: str = "sum", class_weights: ClassWeights = None, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        one_of("reduction", reduction, REDUCTIONS)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return brier_score(logits, targets, self.reduction, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"reduction={self.reduction!r}"


@LOSSES.register("huber")
class Huber(ClassWeighted):
    """Huber's distance between the probabilities and the target: squares while it is small, then a straight line.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        delta: where the square ends and the line begins, above 0. Probabilities differ by at most 1: from there on it
            is half the Brier score.
        reduction: ``sum`` or ``mean`` over the classes of an image.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a delta that is not above 0, or weights that do not fit the classes.

    Source: Huber, Robust Estimation of a Location Parameter, 1964, doi:10.1214/aoms/1177703732.

    Example::

        model:
          loss: {name: huber, delta: 0.5}

    >>> import torch
    >>> Huber(delta=0.5)(torch.tensor([[100.0, 0.0]]), torch.tensor([1]))
    tensor(0.7500)
    """

    def __init__(self, delta: float = 0.5, reduction: Reduction = "sum", **weighting: Any) -> None:
        self.check_arguments(delta, reduction)
        super().__init__(**weighting)
        self.delta = float(delta)
        self.reduction: Reduction = reduction

    @staticmethod
    def check_arguments(
        delta: float = 0.5, reduction: str = "sum", class_weights: ClassWeights = None, **_: Any
    ) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("delta", delta, open_low=True)
        one_of("reduction", reduction, REDUCTIONS)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return huber_score(logits, targets, self.delta, self.reduction, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"delta={self.delta}, reduction={self.reduction!r}"
