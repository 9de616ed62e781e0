"""Binary cross-entropy of every class against the rest."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, one_of, smoothed
from imgrec.losses.class_weights import ClassWeighted
from imgrec.utils.ranges import RightOpenUnitInterval, check_ranges

Reduction = Literal["sum", "mean"]
REDUCTIONS = ("sum", "mean")
"""Reductions over the classes of an image. The loss is always the mean over the images."""


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    threshold: float | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "sum",
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the weighted mean over images of the sum over classes of the log loss of ``sigmoid(logit)``.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float shares in [0, 1] ``(batch, num_classes)``. An image may have
            several classes or none.
        threshold: Share above which the target of a class is 1, and otherwise 0. Defaults to unchanged shares.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1). Defaults to 0.
        reduction: ``sum`` or ``mean`` over the classes. Defaults to ``sum``.
        class_weights: Float ``(num_classes,)``. The weight of an image is the mean weight of its classes.

    Returns:
        Scalar, float32 or wider.

    >>> import torch
    >>> binary_cross_entropy(torch.zeros(1, 3), torch.tensor([0])).exp()
    tensor(8.)
    """
    logits = full_precision(logits)
    shares = as_probabilities(targets, logits)
    if threshold is not None:
        shares = (shares > threshold).to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, smoothed(shares, label_smoothing), reduction="none")
    return image_mean(losses.sum(dim=1) if reduction == "sum" else losses.mean(dim=1), targets, class_weights)


@LOSSES.register("bce")
class BinaryCrossEntropy(ClassWeighted):
    """Binary cross-entropy of every class against the rest, with optional binary targets for mixed images.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``. An
        image may have several classes or none.

    The sum over the classes has the scale of cross-entropy and trains at its learning rates. The mean, which timm and
    torch use, is smaller by the factor ``num_classes``.

    Args:
        threshold: Share above which the target of a class of a mixed image is 1, and otherwise 0, in [0, 1). It is
            ``bce_target_thresh`` of timm, for which 0.2 is usual. Defaults to unchanged shares.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1). Defaults to 0.
        reduction: ``sum`` or ``mean`` over the classes of an image. Defaults to ``sum``.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If a number is out of range, or if the weights do not match the classes.

    See Also:
        :func:`binary_cross_entropy`. Use :class:`Asymmetric` instead if most classes are negative for every image.

    Source: Wightman et al., ResNet Strikes Back, 2021, arXiv:2110.00476; as a class-balanced loss: Cui et al., 2019,
    arXiv:1901.05555.

    Example::

        model:
          loss: {name: bce, threshold: 0.2}

    >>> import torch
    >>> shares = torch.tensor([[0.7, 0.3]])
    >>> BinaryCrossEntropy(threshold=0.2)(torch.tensor([[1000.0, 1000.0]]), shares)
    tensor(0.)
    """

    @check_ranges
    def __init__(
        self,
        threshold: RightOpenUnitInterval | None = None,
        label_smoothing: RightOpenUnitInterval = 0.0,
        reduction: Reduction = "sum",
        **weighting: Any,
    ) -> None:
        one_of("reduction", reduction, REDUCTIONS)
        super().__init__(**weighting)
        self.threshold = None if threshold is None else float(threshold)
        self.label_smoothing = float(label_smoothing)
        self.reduction: Reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return binary_cross_entropy(
            logits, targets, self.threshold, self.label_smoothing, self.reduction, self.class_weights
        )

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"threshold={self.threshold}, label_smoothing={self.label_smoothing}, reduction={self.reduction!r}"
