"""Head for ordered classes: the conditional probability that an image is beyond each class."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from imgrec.models.heads.linear import HEADS
from imgrec.utils.ranges import RightOpenUnitInterval, check_ranges


def ordinal_log_probabilities(conditionals: Tensor) -> Tensor:
    """Return log-probabilities of ordered classes from the conditional logits to be beyond each class.

    Args:
        conditionals: Float ``(batch, num_classes - 1)``. The sigmoid of entry ``k`` is the probability that the class
            of an image is above ``k``, given that it is at least ``k``.

    Returns:
        Log-probabilities ``(batch, num_classes)``, float32 or wider.

    >>> ordinal_log_probabilities(torch.zeros(1, 2)).exp()
    tensor([[0.5000, 0.2500, 0.2500]])
    """
    logits = conditionals.float() if conditionals.dtype in (torch.float16, torch.bfloat16) else conditionals
    beyond, not_beyond = F.logsigmoid(logits).cumsum(1), F.logsigmoid(-logits)
    start = torch.zeros_like(logits[:, :1])
    return torch.cat([start, beyond], 1) + torch.cat([not_beyond, start], 1)


def median_class(logits: Tensor) -> Tensor:
    """Return the median class of ordered classes, which minimizes the expected distance from the true class.

    The most probable class is correct most often. The median is the prediction of the authors of the ordinal
    regression.

    Args:
        logits: Float ``(batch, num_classes)``, of any head.

    Returns:
        Int64 ``(batch,)``.

    >>> median_class(torch.tensor([[0.4, 0.3, 0.3]]).log())
    tensor([1])
    """
    # summed from the last class, because a sum from the first one would lose the digits of small probabilities
    probabilities = logits.double().softmax(1)
    beyond = probabilities.flip(1).cumsum(1).flip(1)[:, 1:]
    return (beyond > 0.5).sum(1)


@HEADS.register("corn")
class CornHead(nn.Module):
    """Head for ordered classes, whose log-probabilities follow from ``num_classes - 1`` binary decisions.

    Args:
        feature_dim: Length of the feature vector, a fact of the backbone.
        num_classes: Number of classes, at least 2, a fact of the data. ``data.classes`` sets their order.
        dropout: Probability, in [0, 1), that a feature is set to zero in training. Defaults to 0.

    Shapes: float ``(batch, feature_dim)`` to log-probabilities ``(batch, num_classes)``, which are valid logits.

    Raises:
        UserError: If ``dropout`` is out of range, or if there are fewer than two classes.

    See Also:
        :class:`imgrec.models.LinearHead`. Use it instead for classes without an order.

    Source: Shi, Cao and Raschka, Deep Neural Networks for Rank-Consistent Ordinal Regression Based on Conditional
    Probabilities, 2023, arXiv:2111.08851.

    Example::

        model:
          head: corn
          loss: corn

    >>> head = CornHead(feature_dim=8, num_classes=3)
    >>> bool(torch.allclose(head(torch.randn(5, 8)).exp().sum(1), torch.ones(5)))
    True
    """

    @check_ranges
    def __init__(
        self, feature_dim: int, num_classes: Annotated[int, Ge(2)], dropout: RightOpenUnitInterval = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(feature_dim, num_classes - 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the log-probabilities of the classes."""
        return ordinal_log_probabilities(self.linear(self.dropout(features)))
