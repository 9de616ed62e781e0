"""Poly-1: cross-entropy whose first polynomial term weighs more."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from imgrec.losses.base import LOSSES, expected_loss, full_precision, in_range
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights


def poly_1_loss(
    logits: Tensor,
    targets: Tensor,
    epsilon: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """The weighted mean of ``-log q[target] + epsilon * (1 - q[target])``, where ``q`` is the softmax of the logits.

    Cross-entropy is the sum over ``j`` of ``(1 - q[target])^j / j``; epsilon is added to the first coefficient. A mixed
    image loses by its shares.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        epsilon: at least -1; 0 is cross-entropy.
        label_smoothing: the part of each target, in [0, 1), that is spread evenly over all classes.
        class_weights: float ``(num_classes,)``.

    Returns:
        A scalar; float32 or wider.
    """
    log_q = full_precision(logits).log_softmax(dim=1)
    return expected_loss(-log_q - epsilon * log_q.expm1(), targets, class_weights, label_smoothing)


@LOSSES.register("poly_1")
class Poly1(ClassWeighted):
    """Cross-entropy as a polynomial of the doubt, whose first coefficient is changed by epsilon.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        epsilon: what is added to the first coefficient, at least -1. Above 0 the network becomes surer; the paper takes
            1 to 2 on ImageNet, and finds it by a search on each data set.
        label_smoothing: the part of each target, in [0, 1), that is spread evenly over all classes.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a number out of its range, or weights that do not fit the classes.

    Source: Leng et al., PolyLoss, 2022, arXiv:2204.12511.

    Example::

        model:
          loss: {name: poly_1, epsilon: 2.0}

    >>> import torch
    >>> Poly1(epsilon=2.0)(torch.zeros(1, 4), torch.tensor([0])) - torch.tensor(4.0).log()
    tensor(1.5000)
    """

    def __init__(self, epsilon: float = 1.0, label_smoothing: float = 0.0, **weighting: Any) -> None:
        self.check_arguments(epsilon, label_smoothing)
        super().__init__(**weighting)
        self.epsilon = float(epsilon)
        self.label_smoothing = float(label_smoothing)

    @staticmethod
    def check_arguments(
        epsilon: float = 1.0, label_smoothing: float = 0.0, class_weights: ClassWeights = None, **_: Any
    ) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("epsilon", epsilon, low=-1.0)
        in_range("label_smoothing", label_smoothing, high=1.0, open_high=True)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return poly_1_loss(logits, targets, self.epsilon, self.label_smoothing, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"epsilon={self.epsilon}, label_smoothing={self.label_smoothing}"
