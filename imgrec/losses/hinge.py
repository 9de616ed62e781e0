"""Hinge losses of support vector machines."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, expected_loss, full_precision, image_mean, one_of
from imgrec.losses.class_weights import ClassWeighted
from imgrec.utils.ranges import PositiveFloat, check_ranges

Kind = Literal["crammer_singer", "one_vs_rest"]
_KINDS = ("crammer_singer", "one_vs_rest")


def crammer_singer_hinge(
    logits: Tensor, targets: Tensor, margin: float = 1.0, squared: bool = False, class_weights: Tensor | None = None
) -> Tensor:
    """Return the weighted mean of ``max(0, margin + the best other logit - logit[target])``, optionally squared.

    The loss of a mixed image is the mixture of the losses of its classes.

    Args:
        logits: Float ``(batch, num_classes)``, with two or more classes.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        margin: Required difference between the target logit and the others, above 0. Defaults to 1.
        squared: ``True`` squares the loss of each image. Defaults to ``False``.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Returns:
        Scalar, float32 or wider.

    Source: Crammer and Singer, On the Algorithmic Implementation of Multiclass Kernel-based Vector Machines, 2001,
    JMLR 2.

    >>> crammer_singer_hinge(torch.tensor([[2.0, 1.5, 0.0]]), torch.tensor([0]))
    tensor(0.5000)
    """
    logits = full_precision(logits)
    best, places = logits.topk(2, dim=1)
    is_best = torch.arange(logits.shape[1], device=logits.device) == places[:, :1]
    best_other = torch.where(is_best, best[:, 1:], best[:, :1])
    lost = (margin + best_other - logits).relu()
    return expected_loss(lost.square() if squared else lost, targets, class_weights)


def one_vs_rest_hinge(
    logits: Tensor, targets: Tensor, margin: float = 1.0, squared: bool = False, class_weights: Tensor | None = None
) -> Tensor:
    """Return the weighted mean over images of the sum over classes of ``max(0, margin - sign * logit)``.

    The sign is +1 for the classes of an image and -1 for the others. A fractional target is the mixture of both.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float shares in [0, 1] ``(batch, num_classes)``.
        margin: Required distance of a logit from 0, above 0. Defaults to 1.
        squared: ``True`` squares the loss of each class. Defaults to ``False``.
        class_weights: Float ``(num_classes,)``. The weight of an image is the mean weight of its classes.

    Returns:
        Scalar, float32 or wider.

    >>> one_vs_rest_hinge(torch.tensor([[2.0, -0.5, -3.0]]), torch.tensor([0]))
    tensor(0.5000)
    """
    logits = full_precision(logits)
    shares = as_probabilities(targets, logits)
    positive, negative = (margin - logits).relu(), (margin + logits).relu()
    if squared:
        positive, negative = positive.square(), negative.square()
    return image_mean((shares * positive + (1 - shares) * negative).sum(dim=1), targets, class_weights)


def hinge_loss(
    logits: Tensor,
    targets: Tensor,
    kind: Kind = "crammer_singer",
    margin: float = 1.0,
    squared: bool = False,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return :func:`crammer_singer_hinge` or :func:`one_vs_rest_hinge`, a scalar.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float shares in [0, 1] ``(batch, num_classes)``.
        kind: ``crammer_singer`` or ``one_vs_rest``. Defaults to ``crammer_singer``.
        margin: Margin of the logits, above 0. Defaults to 1.
        squared: ``True`` squares the loss. Defaults to ``False``.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Example:
        >>> hinge_loss(torch.zeros(1, 3), torch.tensor([2]), "one_vs_rest", squared=True)
        tensor(3.)
    """
    hinge = crammer_singer_hinge if kind == "crammer_singer" else one_vs_rest_hinge
    return hinge(logits, targets, margin, squared, class_weights)


@LOSSES.register("hinge")
class Hinge(ClassWeighted):
    """Hinge loss of support vector machines: Crammer-Singer or one class against the rest, optionally squared.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``. With
    ``one_vs_rest`` an image may have several classes or none.

    Images classified with the margin have no gradient. The logits are not calibrated: calibrate the model before its
    confidence is used.

    Args:
        kind: ``crammer_singer`` requires the target logit to exceed the best other logit by the margin. ``one_vs_rest``
            requires each logit to have the right sign and a distance of the margin from 0. Defaults to
            ``crammer_singer``.
        margin: Margin of the logits, above 0. Defaults to 1.
        squared: ``True`` squares the loss, which makes it smooth. Defaults to ``False``.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If ``margin`` is not above 0, or if the weights do not match the classes.

    See Also:
        :func:`hinge_loss`. Use :class:`CrossEntropy` instead if probabilities are required.

    Source: Crammer and Singer, 2001, JMLR 2; one against the rest: Rifkin and Klautau, 2004, JMLR 5; on deep networks:
    Tang, Deep Learning using Linear Support Vector Machines, 2013, arXiv:1306.0239.

    Example::

        model:
          loss: {name: hinge, kind: one_vs_rest, squared: true}

    >>> Hinge("one_vs_rest", squared=True)(torch.zeros(1, 3), torch.tensor([2]))
    tensor(3.)
    """

    @check_ranges
    def __init__(
        self, kind: Kind = "crammer_singer", margin: PositiveFloat = 1.0, squared: bool = False, **weighting: Any
    ) -> None:
        one_of("kind", kind, _KINDS)
        super().__init__(**weighting)
        self.kind: Kind = kind
        self.margin = float(margin)
        self.squared = squared

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return hinge_loss(logits, targets, self.kind, self.margin, self.squared, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"kind={self.kind!r}, margin={self.margin}, squared={self.squared}"
