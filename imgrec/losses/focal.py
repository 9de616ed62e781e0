"""The focal loss: cross-entropy that cares less about what the network is sure of already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.losses.base import LOSSES, full_precision, in_range
from imgrec.losses.class_weights import ClassWeights, check_class_weights, resolve_class_weights


def focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: Tensor | None = None) -> Tensor:
    """The weighted mean of ``(1 - q[target])^gamma * -log q[target]``, where ``q`` is the softmax of the logits.

    For probabilities ``p`` a sample's loss is ``sum(p * alpha * (1 - q)^gamma * -log q)`` and its weight is
    ``sum(p * alpha)``. With gamma 0 it is :func:`imgrec.losses.cross_entropy` with ``alpha`` as the class weights.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        gamma: how much less a confident sample counts; at least 0.
        alpha: float ``(num_classes,)``, what each class weighs.

    Returns:
        A scalar; float32 or wider.
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
    # 1 - q without cancellation; the floor keeps the power's gradient finite where q rounds to 1 and gamma is below 1
    doubt = (-log_q.expm1()).clamp_min(torch.finfo(log_q.dtype).tiny)
    total = -(shares * doubt**gamma * log_q).sum()
    return total / len(log_q) if weights is None else total / shares.sum()


@LOSSES.register("focal")
class Focal(nn.Module):
    """The multi-class focal loss: samples that the network is sure of count less.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    The class weights ``alpha`` are a buffer that is not saved: they follow from the arguments and from what the data
    says, both of which a checkpoint holds.

    Args:
        gamma: how much less a confident sample counts; 0 is cross-entropy, 2 the paper's choice.
        alpha: one weight a class; a mapping by class name, where classes that are not named weigh 1; ``balanced``:
            every class counts as much as any other; or ``effective``, on request with its ``beta`` as
            ``{name: effective, beta: 0.999}``: the class-balanced focal loss.
        num_classes: a fact of the data.
        class_names: a fact of the data.
        class_counts: a fact of the data.

    Raises:
        UserError: a negative gamma, or weights that do not fit the classes.

    Source: Lin et al., Focal Loss for Dense Object Detection, 2017, arXiv:1708.02002.

    Example::

        model:
          loss: {name: focal, gamma: 2.0, alpha: balanced}

    >>> from imgrec.losses import LOSSES
    >>> LOSSES.build({"name": "focal", "gamma": 1})
    Focal(gamma=1.0)
    """

    alpha: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        alpha: ClassWeights = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.check_arguments(gamma)
        self.gamma = float(gamma)
        weights = resolve_class_weights(alpha, num_classes, class_names, class_counts, argument="alpha")
        self.register_buffer("alpha", weights, persistent=False)

    @staticmethod
    def check_arguments(gamma: float = 2.0, alpha: ClassWeights = None, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("gamma", gamma)
        check_class_weights(alpha, "alpha")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return focal_loss(logits, targets, self.gamma, self.alpha)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"gamma={self.gamma}"
