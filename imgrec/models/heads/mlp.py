"""Heads that do more than one linear layer: hidden layers, several dropout masks at once."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.heads.linear import HEADS, LinearHead
from imgrec.models.utils.activations import Activation, make_activation


@HEADS.register("mlp")
class MLPHead(nn.Module):
    """Hidden layers before the linear classifier, each with norm, activation and dropout.

    Args:
        feature_dim: the length of the feature vector.
        num_classes: the number of classes.
        hidden: the width of the hidden layer, or of each of several; by default one as wide as the features.
        norm: what stands behind a hidden layer; ``batch`` needs batches of two images or more in training.
        activation: what follows it.
        dropout: the probability, in [0, 1), that a feature is set to zero in training, before each linear layer.

    Shapes: float ``(batch, feature_dim)`` in, logits ``(batch, num_classes)`` out.

    Raises:
        UserError: a width below 1, or a dropout outside its range.

    Source: Rumelhart, Hinton and Williams, Learning representations by back-propagating errors, 1986, Nature 323.

    Example: ``model: {backbone: resnet18, head: {name: mlp, hidden: [256, 128], dropout: 0.2}}``

    >>> import torch
    >>> MLPHead(feature_dim=8, num_classes=3, hidden=[16, 4])(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        hidden: int | list[int] | None = None,
        norm: Literal["none", "batch", "layer"] = "none",
        activation: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [feature_dim] if hidden is None else [hidden] if isinstance(hidden, int) else list(hidden)
        self.check_arguments(hidden, dropout=dropout)
        norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.hidden = nn.Sequential()
        for before, width in zip([feature_dim, *widths[:-1]], widths, strict=True):
            layer = nn.Linear(before, width, bias=norm != "batch")  # a batch norm takes it away again
            parts = [nn.Dropout(dropout), layer, norms[norm](width), make_activation(activation)]
            self.hidden.append(nn.Sequential(*(part for part in parts if not isinstance(part, nn.Identity))))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], num_classes)

    @staticmethod
    def check_arguments(hidden: int | list[int] | None = None, dropout: float = 0.0, **_: object) -> None:
        """Raise :class:`UserError` for widths or a dropout that cannot be."""
        widths = [1] if hidden is None else [hidden] if isinstance(hidden, int) else list(hidden)
        if not widths or min(widths) < 1:
            raise UserError(f"`hidden` is the width of one hidden layer or more, got {hidden}")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"`dropout` must be at least 0 and below 1, got {dropout}")

    def forward(self, features: Tensor) -> Tensor:
        """The logits."""
        logits: Tensor = self.linear(self.dropout(self.hidden(features)))
        return logits


@HEADS.register("multi_sample_dropout")
class MultiSampleDropoutHead(LinearHead):
    """A linear classifier that sees the features under several dropout masks in each training step.

    The loss of a step is the mean of the losses under each mask, which :class:`imgrec.ClassificationTask` takes; it is
    not the loss of the mean logits, which of a linear layer would be those of a weaker dropout. In evaluation it is a
    linear head.

    Args:
        feature_dim: the length of the feature vector.
        num_classes: the number of classes.
        samples: the number of masks, 2 or more.
        dropout: the probability, in (0, 1), that a mask sets a feature to zero.

    Shapes: float ``(batch, feature_dim)`` in, logits ``(batch, num_classes)`` out.

    Raises:
        UserError: fewer masks than two, or a dropout outside its range.

    Source: Inoue, Multi-Sample Dropout for Accelerated Training and Better Generalization, 2019, arXiv:1905.09788.

    Example: ``model: {backbone: resnet18, head: {name: multi_sample_dropout, samples: 8, dropout: 0.5}}``

    >>> import torch
    >>> head = MultiSampleDropoutHead(feature_dim=8, num_classes=3, samples=4)
    >>> head(torch.zeros(2, 8)).shape, len(head.sampled(torch.zeros(2, 8)))
    (torch.Size([2, 3]), 4)
    """

    def __init__(self, feature_dim: int, num_classes: int, samples: int = 8, dropout: float = 0.5) -> None:
        self.check_arguments(samples, dropout)
        super().__init__(feature_dim, num_classes, dropout)
        self.samples = samples

    @staticmethod
    def check_arguments(samples: int = 8, dropout: float = 0.5, **_: object) -> None:
        """Raise :class:`UserError` for a number of masks or a dropout that cannot be."""
        if samples < 2:
            raise UserError(f"`samples` must be 2 or more, got {samples}: with one mask it is the head `linear`")
        if not 0.0 < dropout < 1.0:
            raise UserError(f"`dropout` must be above 0 and below 1, got {dropout}")

    def sampled(self, features: Tensor) -> tuple[Tensor, ...]:
        """The logits under each mask, ``(batch, num_classes)`` each; outside training they are all the same."""
        return tuple(self(features) for _ in range(self.samples))
