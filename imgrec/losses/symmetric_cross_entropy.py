"""Symmetric cross-entropy: cross-entropy plus reverse cross-entropy, for noisy labels."""

from __future__ import annotations

import math
from typing import Annotated, Any

from annotated_types import Ge, Lt
from torch import Tensor

from imgrec.errors import UserError
from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights
from imgrec.losses.cross_entropy import cross_entropy
from imgrec.utils.ranges import NonNegativeFloat, check_ranges


def reverse_cross_entropy(
    logits: Tensor, targets: Tensor, log_zero: float = -4.0, class_weights: Tensor | None = None
) -> Tensor:
    """Return the weighted mean of ``-sum(q * log p)``, where ``q`` is the softmax of the logits and ``p`` the target.

    The logarithm of a target of 0, or close to 0, is ``log_zero``. For class indices the value is
    ``-log_zero * (1 - q[target])``, so the effect of a wrong label is bounded.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        log_zero: Value that replaces the logarithm of 0, below 0. Defaults to -4.
        class_weights: Float ``(num_classes,)``. The weight of an image is the mean weight of its classes.

    Returns:
        Scalar, float32 or wider.
    """
    q = full_precision(logits).softmax(dim=1)
    log_p = as_probabilities(targets, q).clamp_min(math.exp(log_zero)).log()
    return image_mean(-(q * log_p).sum(dim=1), targets, class_weights)


def symmetric_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    alpha: float = 0.1,
    beta: float = 1.0,
    log_zero: float = -4.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return ``alpha`` times cross-entropy plus ``beta`` times :func:`reverse_cross_entropy`.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        alpha: Weight of cross-entropy. Defaults to 0.1.
        beta: Weight of reverse cross-entropy. Defaults to 1.
        log_zero: Value that replaces the logarithm of 0, below 0. Defaults to -4.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> import torch
        >>> symmetric_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), alpha=0.0)
        tensor(3.)
    """
    forwards = cross_entropy(logits, targets, class_weights)
    return alpha * forwards + beta * reverse_cross_entropy(logits, targets, log_zero, class_weights)


@LOSSES.register("symmetric_cross_entropy")
class SymmetricCrossEntropy(ClassWeighted):
    """Cross-entropy plus bounded reverse cross-entropy, which reduces the effect of wrong labels (label noise).

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        alpha: Weight of cross-entropy, at least 0. The paper uses 0.1 for CIFAR-10 and 6 for CIFAR-100. Defaults to
            0.1.
        beta: Weight of reverse cross-entropy, at least 0. The paper uses 1 for CIFAR-10 and 0.1 for CIFAR-100. Defaults
            to 1.
        log_zero: Value that replaces the logarithm of 0 in the reverse part, in [-100, 0). Defaults to -4.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If a number is out of range, if both weights are 0, or if the weights do not match the classes.

    See Also:
        :func:`symmetric_cross_entropy`. Use :class:`GeneralizedCrossEntropy` instead to set one parameter.

    Source: Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, 2019, arXiv:1908.06112.

    Example::

        model:
          loss: {name: symmetric_cross_entropy, alpha: 0.1, beta: 1.0}

    >>> import torch
    >>> SymmetricCrossEntropy(alpha=0.0)(torch.zeros(1, 4), torch.tensor([2]))
    tensor(3.)
    """

    @check_ranges
    def __init__(
        self,
        alpha: NonNegativeFloat = 0.1,
        beta: NonNegativeFloat = 1.0,
        log_zero: Annotated[float, Ge(-100), Lt(0)] = -4.0,
        **weighting: Any,
    ) -> None:
        self.check_arguments(alpha=alpha, beta=beta)
        super().__init__(**weighting)
        self.alpha, self.beta, self.log_zero = float(alpha), float(beta), float(log_zero)

    @staticmethod
    def check_arguments(class_weights: ClassWeights = None, *, alpha: float = 0.1, beta: float = 1.0, **_: Any) -> None:
        """Raise an error if both weights are 0, or if the class weights are invalid for any data set."""
        if alpha == beta == 0:
            raise UserError("beta: expected a number > 0 if alpha is 0, got 0.")
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return symmetric_cross_entropy(logits, targets, self.alpha, self.beta, self.log_zero, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"alpha={self.alpha}, beta={self.beta}, log_zero={self.log_zero}"
