"""Focal loss: cross-entropy that down-weights confident samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.losses.base import LOSSES, full_precision
from imgrec.losses.class_weights import ClassWeights, check_class_weights, resolve_class_weights
from imgrec.utils.ranges import NonNegativeFloat, check_ranges


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: Tensor | None = None) -> Tensor:
    """Return the weighted mean of ``(1 - q[target])^gamma * -log q[target]``, where ``q`` is the softmax of the logits.

    For probabilities ``p`` the loss of a sample is ``sum(p * alpha * (1 - q)^gamma * -log q)`` and its weight is
    ``sum(p * alpha)``. With gamma 0 it is :func:`imgrec.losses.cross_entropy` with ``alpha`` as the class weights.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        gamma: Focusing exponent, at least 0. Defaults to 2.
        alpha: Class weights, float ``(num_classes,)``. Defaults to equal weights.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> focal_loss(torch.zeros(1, 2), torch.tensor([0]), gamma=1.0).exp()  # the square root of 2
        tensor(1.4142)
    """
    log_q = full_precision(logits).log_softmax(dim=1)
    weights = None if alpha is None else alpha.to(log_q)
    if targets.is_floating_point():
        shares = targets.to(log_q.dtype)
        if weights is not None:
            shares = shares * weights
    else:
        log_q = log_q.gather(1, targets[:, None])
        shares = torch.ones_like(log_q) if weights is None else weights[targets][:, None]
    # 1 - q without cancellation. The lower bound keeps the gradient finite if q rounds to 1 and gamma is below 1
    doubt = (-log_q.expm1()).clamp_min(torch.finfo(log_q.dtype).tiny)
    total = -(shares * doubt**gamma * log_q).sum()
    return total / len(log_q) if weights is None else total / shares.sum()


@LOSSES.register("focal")
class Focal(nn.Module):
    """Multi-class focal loss, which down-weights confident samples.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    The class weights ``alpha`` are a buffer that is not saved. They follow from the arguments and from the facts of the
    data, both of which a checkpoint contains.

    Args:
        gamma: Focusing exponent, at least 0. 0 is cross-entropy. Defaults to 2, the value of the paper.
        alpha: List of weights in the order of the classes, or a mapping from class names with weight 1 for missing
            names. ``balanced`` gives every class the same total weight. ``effective``, or ``{name: effective, beta:
            0.999}``, is the class-balanced focal loss. Defaults to equal weights.
        num_classes: Number of classes, a fact of the data.
        class_names: Names of the classes, a fact of the data.
        class_counts: Number of training images per class, a fact of the data.

    Raises:
        UserError: If ``gamma`` is negative, or if the weights do not match the classes.

    See Also:
        :func:`focal_loss`. Use :class:`LogitAdjusted` instead for classes of very different sizes, :class:`Poly1` to
        increase the weight of confident samples.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002.

    Example::

        model:
          loss: {name: focal, gamma: 2.0, alpha: balanced}

    >>> from imgrec.losses import LOSSES
    >>> LOSSES.build({"name": "focal", "gamma": 1})
    Focal(gamma=1.0)
    """

    alpha: Tensor | None

    @check_ranges
    def __init__(
        self,
        gamma: NonNegativeFloat = 2.0,
        alpha: ClassWeights = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.gamma = float(gamma)
        weights = resolve_class_weights(alpha, num_classes, class_names, class_counts, argument="alpha")
        self.register_buffer("alpha", weights, persistent=False)

    @staticmethod
    def check_arguments(alpha: ClassWeights = None, **_: Any) -> None:
        """Raise an error if the class weights are invalid for any data set."""
        check_class_weights(alpha, "alpha")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return focal_loss(logits, targets, self.gamma, self.alpha)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"gamma={self.gamma}"
