"""A head for classes in an order: how likely an image is beyond each class, if it is beyond those before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.heads.linear import HEADS


def ordinal_log_probabilities(conditionals: Tensor) -> Tensor:
    """From the logits of being beyond each class, given that those before it are passed, to those of the classes.

    Args:
        conditionals: float ``(batch, num_classes - 1)``: the sigmoid of each is the probability that an image which is
            of that class or a later one is of a later one.

    Returns:
        Log-probabilities ``(batch, num_classes)``; float32 or wider.

    >>> ordinal_log_probabilities(torch.zeros(1, 2)).exp()
    tensor([[0.5000, 0.2500, 0.2500]])
    """
    logits = conditionals.float() if conditionals.dtype in (torch.float16, torch.bfloat16) else conditionals
    beyond, stays = F.logsigmoid(logits).cumsum(1), F.logsigmoid(-logits)
    start = torch.zeros_like(logits[:, :1])
    return torch.cat([start, beyond], 1) + torch.cat([stays, start], 1)


def median_class(logits: Tensor) -> Tensor:
    """The class at which the probabilities of the classes, in their order, come to a half: the least wrong on average.

    The likeliest class is right most often; the median is off by the fewest classes, and is how the authors
    of the ordinal regression predict.

    Args:
        logits: float ``(batch, num_classes)``, of any head.

    Returns:
        int64 ``(batch,)``.

    >>> median_class(torch.tensor([[0.4, 0.3, 0.3]]).log())
    tensor([1])
    """
    # beyond, and not up to, a class: what is summed up last keeps its digits
    probabilities = logits.double().softmax(1)
    beyond = probabilities.flip(1).cumsum(1).flip(1)[:, 1:]
    return (beyond > 0.5).sum(1)


@HEADS.register("corn")
class CornHead(nn.Module):
    """For classes in an order: one question a class, is it beyond that one; gives the classes' log-probabilities.

    Args:
        feature_dim: the length of the feature vector.
        num_classes: the number of classes; their order is that of the data, which ``data.classes`` gives as a list.
        dropout: the probability, in [0, 1), that a feature is set to zero in training.

    Shapes: float ``(batch, feature_dim)`` in, log-probabilities ``(batch, num_classes)`` out, from ``num_classes - 1``
    questions; their softmax is the probabilities.

    Raises:
        UserError: a dropout outside its range, or fewer than two classes.

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

    def __init__(self, feature_dim: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must be at least 0 and below 1, got {dropout}")
        if num_classes < 2:
            raise UserError(f"classes in an order are two or more, got {num_classes}")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(feature_dim, num_classes - 1)

    def forward(self, features: Tensor) -> Tensor:
        """The log-probabilities of the classes."""
        return ordinal_log_probabilities(self.linear(self.dropout(features)))
