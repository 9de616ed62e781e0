"""Conditional ordinal regression (CORN), on the log-probabilities of its head."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision
from imgrec.losses.class_weights import ClassWeighted


def corn_loss(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Return the mean log loss over all binary tasks in which the images take part.

    Task ``k`` predicts for images of class ``k`` or later if their class is later than ``k``. An image of class ``c``
    takes part in the tasks up to ``c``, and there is none for the last class. The losses of an image on its tasks add
    up to minus the log-probability of its class, so only the log-probabilities are required.

    Args:
        logits: Float ``(batch, num_classes)``, log-probabilities of the classes up to a constant per image.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``. Mixed images are weighted
            by their shares.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> corn_loss(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0])).exp()  # one task, probability 0.5
        tensor(2.)
    """
    log_p = full_precision(logits).log_softmax(dim=1)
    classes = log_p.shape[1]
    tasks = torch.arange(1, classes + 1, device=log_p.device).clamp_max(classes - 1).to(log_p.dtype)
    shares = as_probabilities(targets, log_p)
    if class_weights is not None:
        shares = shares * class_weights.to(log_p)
    return -(shares * log_p).sum() / (shares * tasks).sum()


@LOSSES.register("corn")
class Corn(ClassWeighted):
    """Conditional ordinal regression for ordered classes (requires the head ``corn``).

    Shapes: logits float ``(batch, num_classes)``, log-probabilities of the head ``corn``. Targets int64 ``(batch,)`` or
        float
    ``(batch, num_classes)``.

    The order is that of the classes of the data, which ``data.classes`` sets as a list. The loss of a batch
    equals ``cross_entropy`` on the same head, divided by the number of binary tasks instead of images. Metrics
    use the most probable class. The prediction of the paper is the median class of the same probabilities, see
    :func:`imgrec.models.median_class`.

    Args:
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If the head is not ``corn``, or if the weights do not match the classes.

    See Also:
        :func:`corn_loss`. Use :class:`CrossEntropy` instead for classes without an order.

    Source: Shi, Cao and Raschka, Deep Neural Networks for Rank-Consistent Ordinal Regression Based on Conditional
    Probabilities, 2023, arXiv:2111.08851.

    Example::

        model:
          head: corn
          loss: corn

    >>> import torch
    >>> Corn()(torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([0])).exp()  # one task, probability 0.5
    tensor(2.)
    """

    needs_head: ClassVar[str] = "corn"
    """Required registered head, or a subclass of its class."""

    def __init__(self, **weighting: Any) -> None:
        super().__init__(**weighting)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return corn_loss(logits, targets, self.class_weights)
