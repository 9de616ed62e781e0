"""Symmetric cross-entropy: cross-entropy and, for noisy labels, cross-entropy the other way round."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, in_range
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights
from imgrec.losses.cross_entropy import cross_entropy


def reverse_cross_entropy(
    logits: Tensor, targets: Tensor, log_zero: float = -4.0, class_weights: Tensor | None = None
) -> Tensor:
    """The weighted mean of ``-sum(q * log p)``, where ``q`` is the softmax of the logits and ``p`` the target.

    The logarithm of a class that the target has not, or hardly, is ``log_zero``. On class indices it is
    ``-log_zero * (1 - q[target])``, which is bounded: a wrong label can do so much harm and no more.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        log_zero: what stands for the logarithm of 0; below 0.
        class_weights: float ``(num_classes,)``; an image weighs what its classes weigh on average.

    Returns:
        A scalar; float32 or wider.
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
    """``alpha`` times cross-entropy and ``beta`` times :func:`reverse_cross_entropy`; a scalar, float32 or wider."""
    forwards = cross_entropy(logits, targets, class_weights)
    return alpha * forwards + beta * reverse_cross_entropy(logits, targets, log_zero, class_weights)


@LOSSES.register("symmetric_cross_entropy")
class SymmetricCrossEntropy(ClassWeighted):
    """Cross-entropy with its reverse, which is bounded, so that a wrong label does less harm (label noise).

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        alpha: the weight of cross-entropy, at least 0; the paper takes 0.1 for CIFAR-10 and 6 for CIFAR-100.
        beta: the weight of the reverse, at least 0; the paper takes 1 for CIFAR-10 and 0.1 for CIFAR-100.
        log_zero: what stands for the logarithm of 0 in the reverse, below 0.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a number out of its range, or weights that do not fit the classes.

    Source: Wang et al., Symmetric Cross Entropy for Robust Learning with Noisy Labels, 2019, arXiv:1908.06112.

    Example::

        model:
          loss: {name: symmetric_cross_entropy, alpha: 0.1, beta: 1.0}

    >>> import torch
    >>> SymmetricCrossEntropy(alpha=0.0)(torch.zeros(1, 4), torch.tensor([2]))
    tensor(3.)
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0, **weighting: Any) -> None:
        self.check_arguments(alpha, beta, log_zero)
        super().__init__(**weighting)
        self.alpha, self.beta, self.log_zero = float(alpha), float(beta), float(log_zero)

    @staticmethod
    def check_arguments(
        alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0, class_weights: ClassWeights = None, **_: Any
    ) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("alpha", alpha)
        in_range("beta", beta, open_low=alpha == 0)
        in_range("log_zero", log_zero, low=-100.0, high=0.0, open_high=True)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return symmetric_cross_entropy(logits, targets, self.alpha, self.beta, self.log_zero, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"alpha={self.alpha}, beta={self.beta}, log_zero={self.log_zero}"
