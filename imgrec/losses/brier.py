"""Distances between probabilities and targets: Brier score and Huber distance."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, one_of
from imgrec.losses.binary_cross_entropy import REDUCTIONS, Reduction
from imgrec.losses.class_weights import ClassWeighted
from imgrec.utils.ranges import PositiveFloat, check_ranges


def brier_score(
    logits: Tensor, targets: Tensor, reduction: Reduction = "sum", class_weights: Tensor | None = None
) -> Tensor:
    """Return the weighted mean of the sum over classes of ``(q - p)^2``, with ``q`` the softmax of the logits.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``, the ``p``.
        reduction: ``sum`` or ``mean`` over the classes. Defaults to ``sum``.
        class_weights: Float ``(num_classes,)``. The weight of an image is the mean weight of its classes.

    Returns:
        Scalar in [0, 2], float32 or wider.

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
    """Return the weighted mean over images of the Huber distance of probabilities and target, summed over the classes.

    The distance of a difference ``d`` is ``d^2 / 2`` up to delta and ``delta * (|d| - delta / 2)`` above it.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        delta: Difference from which on the distance is linear, above 0. From 1 on it is half the Brier score. Defaults
            to 0.5.
        reduction: ``sum`` or ``mean`` over the classes. Defaults to ``sum``.
        class_weights: Float ``(num_classes,)``. The weight of an image is the mean weight of its classes.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> import torch
        >>> huber_score(torch.tensor([[100.0, 0.0]]), torch.tensor([1]))
        tensor(0.7500)
    """
    q = full_precision(logits).softmax(dim=1)
    losses = F.huber_loss(q, as_probabilities(targets, q), reduction="none", delta=delta)
    return image_mean(losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1), targets, class_weights)


@LOSSES.register("brier")
class Brier(ClassWeighted):
    """Brier score: squared distance between probabilities and target, a bounded proper scoring rule.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    It is in [0, 2], so the effect of a wrong label is bounded. Confident errors have a smaller gradient than in
    cross-entropy, so training is slower at first.

    Args:
        reduction: ``sum`` over the classes of an image, as in the paper, or ``mean``. Defaults to ``sum``.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If the weights do not match the classes.

    See Also:
        :func:`brier_score`. Use :class:`CrossEntropy` instead for fast training with clean labels.

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability, 1950, Monthly Weather Review 78.

    Example::

        model:
          loss: brier

    >>> import torch
    >>> Brier()(torch.tensor([[100.0, 0.0]]), torch.tensor([1]))
    tensor(2.)
    """

    def __init__(self, reduction: Reduction = "sum", **weighting: Any) -> None:
        one_of("reduction", reduction, REDUCTIONS)
        super().__init__(**weighting)
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return brier_score(logits, targets, self.reduction, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"reduction={self.reduction!r}"


@LOSSES.register("huber")
class Huber(ClassWeighted):
    """Huber distance between probabilities and target: quadratic for small differences, linear for large ones.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        delta: Difference from which on the distance is linear, above 0. Probabilities differ by at most 1, so from 1 on
            it is half the Brier score. Defaults to 0.5.
        reduction: ``sum`` or ``mean`` over the classes of an image. Defaults to ``sum``.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If ``delta`` is not above 0, or if the weights do not match the classes.

    See Also:
        :func:`huber_score`. Use :class:`Brier` instead for a proper scoring rule.

    Source: Huber, Robust Estimation of a Location Parameter, 1964, doi:10.1214/aoms/1177703732.

    Example::

        model:
          loss: {name: huber, delta: 0.5}

    >>> import torch
    >>> Huber(delta=0.5)(torch.tensor([[100.0, 0.0]]), torch.tensor([1]))
    tensor(0.7500)
    """

    @check_ranges
    def __init__(self, delta: PositiveFloat = 0.5, reduction: Reduction = "sum", **weighting: Any) -> None:
        one_of("reduction", reduction, REDUCTIONS)
        super().__init__(**weighting)
        self.delta = float(delta)
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return huber_score(logits, targets, self.delta, self.reduction, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"delta={self.delta}, reduction={self.reduction!r}"
