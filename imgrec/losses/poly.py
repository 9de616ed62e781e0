"""Poly-1: cross-entropy with a modified first polynomial coefficient."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from imgrec.losses.base import LOSSES, expected_loss, full_precision
from imgrec.losses.class_weights import ClassWeighted
from imgrec.utils.ranges import Finite, RightOpenUnitInterval, check_ranges


def poly_1_loss(
    logits: Tensor,
    targets: Tensor,
    epsilon: float = 1.0,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the weighted mean of ``-log q[target] + epsilon * (1 - q[target])``, with ``q`` the softmax of the logits.

    Cross-entropy is the sum over ``j`` of ``(1 - q[target])^j / j``. ``epsilon`` is added to the first coefficient. The
    loss of a mixed image is the mixture of the losses of its classes.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        epsilon: Change of the first coefficient, at least -1. 0 is cross-entropy. Defaults to 1.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1). Defaults to 0.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> import torch
        >>> poly_1_loss(torch.zeros(1, 4), torch.tensor([0]), epsilon=2.0) - torch.tensor(4.0).log()
        tensor(1.5000)
    """
    log_q = full_precision(logits).log_softmax(dim=1)
    return expected_loss(-log_q - epsilon * log_q.expm1(), targets, class_weights, label_smoothing)


@LOSSES.register("poly_1")
class Poly1(ClassWeighted):
    """Poly-1 loss: cross-entropy as a polynomial of ``1 - q``, with ``epsilon`` added to its first coefficient.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        epsilon: Change of the first coefficient, at least -1. Positive values make the network more confident. The
            paper uses 1 to 2 on ImageNet, tuned per data set. Defaults to 1.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1). Defaults to 0.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If a number is out of range, or if the weights do not match the classes.

    See Also:
        :func:`poly_1_loss`. Use :class:`Focal` instead to decrease the weight of confident samples.

    Source: Leng et al., PolyLoss, 2022, arXiv:2204.12511.

    Example::

        model:
          loss: {name: poly_1, epsilon: 2.0}

    >>> import torch
    >>> Poly1(epsilon=2.0)(torch.zeros(1, 4), torch.tensor([0])) - torch.tensor(4.0).log()
    tensor(1.5000)
    """

    @check_ranges
    def __init__(
        self,
        epsilon: Annotated[float, Ge(-1), Finite] = 1.0,
        label_smoothing: RightOpenUnitInterval = 0.0,
        **weighting: Any,
    ) -> None:
        super().__init__(**weighting)
        self.epsilon = float(epsilon)
        self.label_smoothing = float(label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return poly_1_loss(logits, targets, self.epsilon, self.label_smoothing, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"epsilon={self.epsilon}, label_smoothing={self.label_smoothing}"
