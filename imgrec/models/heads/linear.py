"""What turns a feature vector into logits."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.utils.vectors import unit_length

HEADS: Registry[nn.Module] = Registry("head", "heads")


@HEADS.register("linear")
class LinearHead(nn.Module):
    """A linear classifier on the pooled features, with dropout before it.

    Args:
        feature_dim: the length of the feature vector.
        num_classes: the number of classes.
        dropout: the probability, in [0, 1), that a feature is set to zero in training.

    Shapes: float ``(batch, feature_dim)`` in, logits ``(batch, num_classes)`` out.

    Source: dropout is Srivastava et al., 2014, JMLR 15.

    >>> LinearHead(feature_dim=8, num_classes=3)(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(self, feature_dim: int, num_classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout must be at least 0 and below 1, got {dropout}")
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(feature_dim, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.linear(self.dropout(features))
        return logits


@HEADS.register("cosine")
class CosineHead(nn.Module):
    """Scaled cosine similarity between the features and one direction a class; what margin losses expect.

    The lengths of the features and of the weights play no part. Logits lie in [-scale, scale]; the scale is the inverse
    of a softmax temperature, and too small a one keeps the cross-entropy from ever reaching zero.

    Args:
        feature_dim: the length of the feature vector.
        num_classes: the number of classes.
        scale: the factor on the cosine, above 0.
        learnable: whether training moves the scale; it is kept as its logarithm, and so stays above 0.

    Shapes: float ``(batch, feature_dim)`` in, logits ``(batch, num_classes)`` out.

    Source: Wang et al., NormFace, 2017, arXiv:1704.06369; Gidaris and Komodakis, 2018, arXiv:1804.09458.

    >>> logits = CosineHead(feature_dim=8, num_classes=3, scale=4.0)(torch.randn(5, 8))
    >>> bool((logits.abs() <= 4.0001).all())
    True
    """

    log_scale: Tensor

    def __init__(self, feature_dim: int, num_classes: int, scale: float = 16.0, learnable: bool = False) -> None:
        super().__init__()
        if scale <= 0.0:
            raise UserError(f"scale must be above 0, got {scale}")
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        nn.init.normal_(self.weight, std=feature_dim**-0.5)  # uniform over directions, and of length about 1
        self.scale, self.learnable = float(scale), learnable
        log_scale = torch.tensor(self.scale).log()
        if learnable:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)

    @property
    def logit_scale(self) -> float | None:
        """What the cosines are multiplied by, where that stays."""
        return None if self.learnable else self.scale

    def forward(self, features: Tensor) -> Tensor:
        """The logits."""
        cosine = F.linear(unit_length(features), unit_length(self.weight))
        return self.log_scale.exp() * cosine
