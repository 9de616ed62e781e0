"""Heads with hidden layers, and with several dropout masks per step."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.heads.linear import HEADS, LinearHead
from imgrec.models.utils.activations import Activation, make_activation
from imgrec.utils.ranges import OpenUnitInterval, PositiveInt, RightOpenUnitInterval, check_ranges


@HEADS.register("mlp")
class MLPHead(nn.Module):
    """Hidden layers before the linear classifier, each with dropout, normalization and activation.

    Args:
        feature_dim: Length of the feature vector, a fact of the backbone.
        num_classes: Number of classes, a fact of the data.
        hidden: Width of each hidden layer, at least 1. Defaults to one layer of the width of the features.
        norm: Normalization of a hidden layer. ``batch`` requires batches of two or more images in training. Defaults to
            ``none``.
        activation: Activation of a hidden layer. Defaults to ``relu``.
        dropout: Probability, in [0, 1), that the input of a linear layer is set to zero in training. Defaults to 0.

    Shapes: float ``(batch, feature_dim)`` to logits ``(batch, num_classes)``.

    Raises:
        UserError: If a width or ``dropout`` is out of range.

    See Also:
        :class:`imgrec.models.LinearHead`. Use it instead if the backbone is trained as well.

    Source: Rumelhart, Hinton and Williams, Learning representations by back-propagating errors, 1986, Nature 323.

    Example: ``model: {backbone: resnet18, head: {name: mlp, hidden: [256, 128], dropout: 0.2}}``

    >>> import torch
    >>> MLPHead(feature_dim=8, num_classes=3, hidden=[16, 4])(torch.zeros(2, 8)).shape
    torch.Size([2, 3])
    """

    @check_ranges
    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        hidden: PositiveInt | list[PositiveInt] | None = None,
        norm: Literal["none", "batch", "layer"] = "none",
        activation: Activation = "relu",
        dropout: RightOpenUnitInterval = 0.0,
    ) -> None:
        super().__init__()
        self.check_arguments(hidden)
        widths = [feature_dim] if hidden is None else [hidden] if isinstance(hidden, int) else list(hidden)
        norms = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
        self.hidden = nn.Sequential()
        for before, width in zip([feature_dim, *widths[:-1]], widths, strict=True):
            layer = nn.Linear(before, width, bias=norm != "batch")  # batch normalization removes a bias
            parts = [nn.Dropout(dropout), layer, norms[norm](width), make_activation(activation)]
            self.hidden.append(nn.Sequential(*(part for part in parts if not isinstance(part, nn.Identity))))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(widths[-1], num_classes)

    @staticmethod
    def check_arguments(hidden: int | list[int] | None = None, **_: object) -> None:
        """Raise an error if there is no hidden layer."""
        if hidden == []:
            raise UserError("hidden: expected the widths of one or more layers, got []. Use the head `linear` instead.")

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.linear(self.dropout(self.hidden(features)))
        return logits


@HEADS.register("multi_sample_dropout")
class MultiSampleDropoutHead(LinearHead):
    """Linear classifier that applies several dropout masks to the features in each training step.

    The loss of a step is the mean of the losses under each mask, as :class:`imgrec.ClassificationTask` computes it. It
    is not the loss of the mean logits, which would be a weaker dropout for a linear layer. In evaluation it is a linear
    head.

    Args:
        feature_dim: Length of the feature vector, a fact of the backbone.
        num_classes: Number of classes, a fact of the data.
        samples: Number of masks, at least 2. Defaults to 8.
        dropout: Probability, in (0, 1), that a mask sets a feature to zero. Defaults to 0.5.

    Shapes: float ``(batch, feature_dim)`` to logits ``(batch, num_classes)``.

    Raises:
        UserError: If ``samples`` or ``dropout`` is out of range.

    See Also:
        :class:`imgrec.models.LinearHead`, which has the argument ``dropout`` for a single mask.

    Source: Inoue, Multi-Sample Dropout for Accelerated Training and Better Generalization, 2019, arXiv:1905.09788.

    Example: ``model: {backbone: resnet18, head: {name: multi_sample_dropout, samples: 8, dropout: 0.5}}``

    >>> import torch
    >>> head = MultiSampleDropoutHead(feature_dim=8, num_classes=3, samples=4)
    >>> head(torch.zeros(2, 8)).shape, len(head.sampled(torch.zeros(2, 8)))
    (torch.Size([2, 3]), 4)
    """

    @check_ranges
    def __init__(
        self,
        feature_dim: int,
        num_classes: int,
        samples: Annotated[int, Ge(2)] = 8,
        dropout: OpenUnitInterval = 0.5,
    ) -> None:
        super().__init__(feature_dim, num_classes, dropout)
        self.samples = samples

    def sampled(self, features: Tensor) -> tuple[Tensor, ...]:
        """Return the logits under each mask, ``(batch, num_classes)`` each. In evaluation they are all equal."""
        return tuple(self(features) for _ in range(self.samples))
