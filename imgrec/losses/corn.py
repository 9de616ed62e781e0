"""Classes in an order: conditional ordinal regression, on the log-probabilities that its head gives."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights


def corn_loss(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """The mean over all questions that the images answer of the log loss of the answer.

    Question ``k`` is whether an image that is of class ``k`` or later is of a later one than ``k``. An image of class
    ``c`` answers the questions up to ``c``, and there is none for the last class. What an image loses on its questions
    together is minus the log-probability of its class, so that this needs the log-probabilities alone.

    Args:
        logits: float ``(batch, num_classes)``, log-probabilities of the classes; a constant for each image may be
            added to them.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``; a mixed image loses, and
            counts, by its shares.
        class_weights: float ``(num_classes,)``.

    Returns:
        A scalar; float32 or wider.
    """
    log_p = full_precision(logits).log_softmax(dim=1)
    classes = log_p.shape[1]
    questions = torch.arange(1, classes + 1, device=log_p.device).clamp_max(classes - 1).to(log_p.dtype)
    shares = as_probabilities(targets, log_p)
    if class_weights is not None:
        shares = shares * class_weights.to(log_p)
    return -(shares * log_p).sum() / (shares * questions).sum()


@LOSSES.register("corn")
class Corn(ClassWeighted):
    """Conditional ordinal regression: for classes in an order, is it beyond each of them (needs the head `corn`).

    Shapes: logits float ``(batch, num_classes)``, log-probabilities as the head ``corn`` gives them; targets int64
    ``(batch,)`` or float ``(batch, num_classes)``.

    The order is that of the data's classes, which ``data.classes`` gives as a list. Each batch's loss is, up to a
    factor, that of ``cross_entropy`` on the same head: it is divided by the questions that the images answer, and not
    by the images. Metrics take the likeliest class; the authors' own prediction is the median class of the same
    probabilities, :func:`imgrec.models.median_class`.

    Args:
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: another head than ``corn``, or weights that do not fit the classes.

    Source: Shi, Cao and Raschka, Deep Neural Networks for Rank-Consistent Ordinal Regression Based on Conditional
    Probabilities, 2023, arXiv:2111.08851.

    Example::

        model:
          head: corn
          loss: corn

    >>> import torch
    >>> Corn()(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0])).exp()  # one question, answered at even odds
    tensor(2.)
    """

    needs_head: ClassVar[str] = "corn"
    """The registered head that it is made for; a subclass of that head's class will do."""

    def __init__(self, **weighting: Any) -> None:
        super().__init__(**weighting)

    @staticmethod
    def check_arguments(class_weights: ClassWeights = None, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return corn_loss(logits, targets, self.class_weights)
