"""Generalized cross-entropy: between cross-entropy and mean absolute error, for noisy labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imgrec.losses.base import LOSSES, expected_loss, full_precision
from imgrec.losses.class_weights import ClassWeighted
from imgrec.utils.ranges import LeftOpenUnitInterval, check_ranges


def generalized_cross_entropy(
    logits: Tensor, targets: Tensor, q: float = 0.7, class_weights: Tensor | None = None
) -> Tensor:
    """Return the weighted mean of ``(1 - p[target]^q) / q``, where ``p`` is the softmax of the logits.

    Its gradient is that of cross-entropy times ``p[target]^q``, so that labels with a small predicted probability have
    less effect. As q goes to 0 it becomes cross-entropy. With q 1 it is half the absolute error of ``p``. The loss of a
    mixed image is the mixture of the losses of its classes.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        q: Exponent, in (0, 1]. Defaults to 0.7.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> generalized_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), q=1.0)
        tensor(0.7500)
    """
    log_p = full_precision(logits).log_softmax(dim=1)
    return expected_loss(-torch.expm1(q * log_p) / q, targets, class_weights)


@LOSSES.register("generalized_cross_entropy")
class GeneralizedCrossEntropy(ClassWeighted):
    """Generalized cross-entropy, which reduces the effect of labels with a small predicted probability (label noise).

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        q: Exponent, in (0, 1]. Towards 0 it is cross-entropy, which trains fast and fits wrong labels. 1 is the
            absolute error, which is robust and trains slowly. Defaults to 0.7, the value of the paper.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If ``q`` is out of range, or if the weights do not match the classes.

    See Also:
        :func:`generalized_cross_entropy`. Use :class:`SymmetricCrossEntropy` instead if training is too slow.

    Source: Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, 2018,
    arXiv:1805.07836.

    Example::

        model:
          loss: {name: generalized_cross_entropy, q: 0.7}

    >>> GeneralizedCrossEntropy(q=1.0)(torch.zeros(1, 4), torch.tensor([2]))
    tensor(0.7500)
    """

    @check_ranges
    def __init__(self, q: LeftOpenUnitInterval = 0.7, **weighting: Any) -> None:
        super().__init__(**weighting)
        self.q = float(q)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return generalized_cross_entropy(logits, targets, self.q, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"q={self.q}"
