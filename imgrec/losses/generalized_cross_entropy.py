"""Generalized cross-entropy: between cross-entropy and the mean absolute error, for noisy labels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from imgrec.losses.base import LOSSES, expected_loss, full_precision, in_range
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights


def generalized_cross_entropy(
    logits: Tensor, targets: Tensor, q: float = 0.7, class_weights: Tensor | None = None
) -> Tensor:
    """The weighted mean of ``(1 - p[target]^q) / q``, where ``p`` is the softmax of the logits.

    Its gradient is that of cross-entropy times ``p[target]^q``: an image whose label the network does not believe
    moves it less. As q goes to 0 it becomes cross-entropy; with q 1 it is half the absolute error of ``p``. A mixed
    image loses by its shares.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        q: above 0, at most 1.
        class_weights: float ``(num_classes,)``.

    Returns:
        A scalar; float32 or wider.
    """
    log_p = full_precision(logits).log_softmax(dim=1)
    return expected_loss(-torch.expm1(q * log_p) / q, targets, class_weights)


@LOSSES.register("generalized_cross_entropy")
class GeneralizedCrossEntropy(ClassWeighted):
    """Between cross-entropy and the absolute error: labels that the network does not believe count less (label noise).

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        q: above 0, at most 1: towards 0 it is cross-entropy, which learns fast and learns wrong labels too; 1 is the
            absolute error, which resists them and learns slowly; 0.7 is the paper's choice.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: q out of its range, or weights that do not fit the classes.

    Source: Zhang and Sabuncu, Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy Labels, 2018,
    arXiv:1805.07836.

    Example::

        model:
          loss: {name: generalized_cross_entropy, q: 0.7}

    >>> GeneralizedCrossEntropy(q=1.0)(torch.zeros(1, 4), torch.tensor([2]))
    tensor(0.7500)
    """

    def __init__(self, q: float = 0.7, **weighting: Any) -> None:
        self.check_arguments(q)
        super().__init__(**weighting)
        self.q = float(q)

    @staticmethod
    def check_arguments(q: float = 0.7, class_weights: ClassWeights = None, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("q", q, high=1.0, open_low=True)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return generalized_cross_entropy(logits, targets, self.q, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"q={self.q}"
