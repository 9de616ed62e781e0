"""Registry of heads, and linear and cosine classifiers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.registry import Registry
from imgrec.utils.ranges import PositiveFloat, RightOpenUnitInterval, check_ranges
from imgrec.utils.vectors import unit_length

HEADS: Registry[nn.Module] = Registry("head", "heads")
"""Heads by name."""


@HEADS.register("linear")
class LinearHead(nn.Module):
    """Linear classifier on the pooled features, with optional dropout.

    Args:
        feature_dim: Length of the feature vector, a fact of the backbone.
        num_classes: Number of classes, a fact of the data.
        dropout: Probability, in [0, 1), that a feature is set to zero in training. Defaults to 0.

    Shapes: float ``(batch, feature_dim)`` to logits ``(batch, num_classes)``.

    Raises:
        UserError: If ``dropout`` is out of range.

    See Also:
        :class:`imgrec.models.MLPHead`. Use it instead on frozen features that are not linearly separable.

    Source: dropout is Srivastava et al., 2014, JMLR 15.

    >>> LinearHead(feature_dim=8, num_classes=3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    @check_ranges
    def __init__(self, feature_dim: int, num_classes: int, dropout: RightOpenUnitInterval = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(feature_dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.linear(self.dropout(features))
        return logits


@HEADS.register("cosine")
class CosineHead(nn.Module):
    """Scaled cosine similarity between the features and one direction per class, as margin losses require.

    The lengths of the features and weights have no effect. Logits are in [-scale, scale]. The scale is the inverse of a
    softmax temperature. If it is too small, the cross-entropy cannot reach zero.

    Args:
        feature_dim: Length of the feature vector, a fact of the backbone.
        num_classes: Number of classes, a fact of the data.
        scale: Factor on the cosine, above 0. Defaults to 16.
        learnable: ``True`` trains the scale, stored as its logarithm. Defaults to ``False``.

    Shapes: float ``(batch, feature_dim)`` to logits ``(batch, num_classes)``.

    Raises:
        UserError: If ``scale`` is out of range.

    Source: Wang et al., NormFace, 2017, arXiv:1704.06369; Gidaris and Komodakis, 2018, arXiv:1804.09458.

    >>> logits = CosineHead(feature_dim=8, num_classes=3, scale=4.0)(torch.randn(5, 8))
    >>> bool((logits.abs() <= 4.0001).all())
    True
    """

    log_scale: Tensor

    @check_ranges
    def __init__(
        self, feature_dim: int, num_classes: int, scale: PositiveFloat = 16.0, learnable: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        nn.init.normal_(self.weight, std=feature_dim**-0.5)  # uniform over directions, with a length of about 1
        self.scale, self.learnable = float(scale), learnable
        log_scale = torch.tensor(self.scale).log()
        if learnable:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def logit_scale(self) -> float | None:
        """Factor on the cosines, or ``None`` if it is trained."""
        return None if self.learnable else self.scale

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        cosine = F.linear(unit_length(features), unit_length(self.weight))
        return self.log_scale.exp() * cosine
