"""Hinge losses: support vector machines on the network's features."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, expected_loss, full_precision, image_mean, in_range, one_of
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights

Kind = Literal["crammer_singer", "one_vs_rest"]
_KINDS = ("crammer_singer", "one_vs_rest")


def crammer_singer_hinge(
    logits: Tensor, targets: Tensor, margin: float = 1.0, squared: bool = False, class_weights: Tensor | None = None
) -> Tensor:
    """The weighted mean of ``max(0, margin + the best other logit - logit[target])``, on request squared.

    A mixed image loses by its shares.

    Args:
        logits: float ``(batch, num_classes)``, of two or more classes.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        margin: by how much the target's logit has to win; above 0.
        squared: square what each image loses.
        class_weights: float ``(num_classes,)``.

    Returns:
        A scalar; float32 or wider.

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
    """The weighted mean over images of ``sum over classes of max(0, margin - sign * logit)``, on request squared.

    The sign is +1 for the classes that an image has and -1 for the others; a share of a class counts as that share of
    having it. An image may have several classes or none.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float shares in [0, 1] ``(batch, num_classes)``.
        margin: how far from 0 a logit has to be; above 0.
        squared: square what is lost on each class.
        class_weights: float ``(num_classes,)``; an image weighs what its classes weigh on average.

    Returns:
        A scalar; float32 or wider.

    >>> one_vs_rest_hinge(torch.tensor([[2.0, -0.5, -3.0]]), torch.tensor([0]))
    tensor(0.5000)
    """
    logits = full_precision(logits)
    shares = as_probabilities(targets, logits)
    has, has_not = (margin - logits).relu(), (margin + logits).relu()
    if squared:
        has, has_not = has.square(), has_not.square()
    return image_mean((shares * has + (1 - shares) * has_not).sum(dim=1), targets, class_weights)


@LOSSES.register("hinge")
class Hinge(ClassWeighted):
    """The hinge loss of support vector machines: Crammer-Singer's or one class against the rest, also squared.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``; with
    ``one_vs_rest`` an image may have several classes or none.

    What is classified with the margin to spare has no gradient. The logits become no probabilities: calibrate a model
    before its confidence is believed.

    Args:
        kind: ``crammer_singer``: the target's logit has to beat the best other one by the margin; ``one_vs_rest``:
            each logit has to be on its side of 0 by the margin.
        margin: above 0.
        squared: whether what is lost is squared, which is smooth.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a margin that is not above 0, or weights that do not fit the classes.

    Source: Crammer and Singer, 2001, JMLR 2; one against the rest: Rifkin and Klautau, 2004, JMLR 5; on deep networks:
    Tang, Deep Learning using Linear Support Vector Machines, 2013, arXiv:1306.0239.

    Example::

        model:
          loss: {name: hinge, kind: one_vs_rest, squared: true}

    >>> Hinge("one_vs_rest", squared=True)(torch.zeros(1, 3), torch.tensor([2]))
    tensor(3.)
    """

    def __init__(
        self, kind: Kind = "crammer_singer", margin: float = 1.0, squared: bool = False, **weighting: Any
    ) -> None:
        self.check_arguments(kind, margin)
        super().__init__(**weighting)
        self.kind: Kind = kind
        self.margin = float(margin)
        self.squared = squared

    @staticmethod
    def check_arguments(
        kind: str = "crammer_singer", margin: float = 1.0, class_weights: ClassWeights = None, **_: Any
    ) -> None:
        """Refuse what is wrong whatever the data may be."""
        one_of("kind", kind, _KINDS)
        in_range("margin", margin, open_low=True)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        hinge = crammer_singer_hinge if self.kind == "crammer_singer" else one_vs_rest_hinge
        return hinge(logits, targets, self.margin, self.squared, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"kind={self.kind!r}, margin={self.margin}, squared={self.squared}"
