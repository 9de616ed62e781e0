"""Center loss: distance between features and the learned center of their class."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import full_precision
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput


def center_loss(features: Tensor, targets: Tensor, centers: Tensor) -> Tensor:
    """Return half the mean squared distance between features and the center of their class, a scalar.

    For probabilities it is the expected distance: each center is weighted by the probability of its class.

    Args:
        features: Float ``(batch, feature_dim)``.
        targets: Int64 ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        centers: Float ``(num_classes, feature_dim)``.

    Example:
        >>> center_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), torch.tensor([[9.0, 9.0], [0.0, 0.0]]))
        tensor(12.5000)
    """
    if not targets.is_floating_point():
        return (features - centers[targets]).square().sum(1).mean() / 2
    squares = (features[:, None] - centers[None]).square().sum(2)
    return (targets.to(squares.dtype) * squares).sum(1).mean() / 2


@REGULARIZERS.register("center")
class Center(nn.Module):
    """Half the squared distance between features and the center of their class. The centers are learned, too.

    The centers are parameters. They are trained with the network and saved in checkpoints, have no weight decay and are
    not exported. As in the paper, their speed does not depend on the weight of the penalty. Weights of 1e-3 to 0.05 are
    usual.

    Args:
        num_classes: Number of classes, a fact of the data.
        feature_dim: Length of the features, a fact of the model.
        weight: Weight of this regularizer, by which the gradient of the centers is divided. Defaults to 1.

    Raises:
        UserError: If the network has no ``feature_dim``.

    Example::

        regularizers: {name: center, weight: 0.01}

    See Also:
        :func:`center_loss`. Use :class:`SupervisedContrastive` instead if different classes are also to move apart.

    Source: Wen, Zhang, Li and Qiao, A Discriminative Feature Learning Approach for Deep Face Recognition, 2016,
    10.1007/978-3-319-46478-7_31.
    """

    def __init__(self, num_classes: int, feature_dim: int | None = None, weight: float = 1.0) -> None:
        super().__init__()
        if feature_dim is None:
            raise UserError("the regularizer center requires `feature_dim`, and this network has none.")
        self.weight = float(weight)
        self.centers = nn.Parameter(torch.zeros(num_classes, feature_dim))
        self.feature_width = feature_dim

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        with torch.autocast(output.features.device.type, enabled=False):
            features, centers = full_precision(output.features), full_precision(self.centers)
            if self.weight:
                constant = centers.detach()
                centers = constant + (centers - constant) / self.weight  # the same value with a scaled gradient
            return center_loss(features, output.targets, centers)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"{self.centers.shape[0]} centers of {self.feature_width} features"
