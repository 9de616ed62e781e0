"""Binary cross-entropy: one question a class, is the image of it or not."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, in_range, one_of, smoothed
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights

Reduction = Literal["sum", "mean"]
REDUCTIONS = ("sum", "mean")
"""What becomes of the losses of an image's classes; images are always averaged."""


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    threshold: float | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "sum",
    class_weights: Tensor | None = None,
) -> Tensor:
    """The weighted mean over images of the sum over classes of the log loss of ``sigmoid(logit)``.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float shares in [0, 1] ``(batch, num_classes)``; an image may have
            several classes or none.
        threshold: a class whose share of an image is above it is there as a whole, any other not at all; left out,
            shares are learnt as they are.
        label_smoothing: the part of each target, in [0, 1), that is spread evenly over all classes.
        reduction: ``sum`` or ``mean`` over the classes.
        class_weights: float ``(num_classes,)``; an image weighs what its classes weigh on average.

    Returns:
        A scalar; float32 or wider.

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
    """Binary cross-entropy of every class against the rest, on request with the shares of mixed images made 0 or 1.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``; an
    image may have several classes or none.

    The sum over the classes is as large as cross-entropy is, and learns at its learning rates; timm and torch take the
    mean, which is as many times smaller as there are classes.

    Args:
        threshold: a class whose share of a mixed image is above it is there as a whole, any other not at all, as with
            timm's ``bce_target_thresh``, for which 0.2 is usual. Left out, shares are learnt as they are.
        label_smoothing: the part of each target, in [0, 1), that is spread evenly over all classes.
        reduction: ``sum`` or ``mean`` over the classes of an image.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a number out of its range, or weights that do not fit the classes.

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

    def __init__(
        self,
        threshold: float | None = None,
        label_smoothing: float = 0.0,
        reduction: Reduction = "sum",
        **weighting: Any,
    ) -> None:
        self.check_arguments(threshold, label_smoothing, reduction)
        super().__init__(**weighting)
        self.threshold = None if threshold is None else float(threshold)
        self.label_smoothing = float(label_smoothing)
        self.reduction: Reduction = reduction

    @staticmethod
    def check_arguments(
        threshold: float | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "sum",
        class_weights: ClassWeights = None,
        **_: Any,
    ) -> None:
        """Refuse what is wrong whatever the data may be."""
        if threshold is not None:
            in_range("threshold", threshold, high=1.0, open_high=True)
        in_range("label_smoothing", label_smoothing, high=1.0, open_high=True)
        one_of("reduction", reduction, REDUCTIONS)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return binary_cross_entropy(
            logits, targets, self.threshold, self.label_smoothing, self.reduction, self.class_weights
        )

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"threshold={self.threshold}, label_smoothing={self.label_smoothing}, reduction={self.reduction!r}"
