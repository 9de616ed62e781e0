"""Centre loss: each class has a centre among the features, which is learnt, and its images gather around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import full_precision
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput


def center_loss(features: Tensor, targets: Tensor, centers: Tensor) -> Tensor:
    """Half the mean squared distance between features and the centre of their class, a scalar.

    Of probabilities it is the expected one: that to each centre, times the probability of its class.

    Args:
        features: float ``(batch, feature_dim)``.
        targets: int64 ``(batch,)``, or float ``(batch, num_classes)`` probabilities.
        centers: float ``(num_classes, feature_dim)``.

    >>> center_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([1]), torch.tensor([[9.0, 9.0], [0.0, 0.0]]))
    tensor(12.5000)
    """
    if not targets.is_floating_point():
        return (features - centers[targets]).square().sum(1).mean() / 2
    squares = (features[:, None] - centers[None]).square().sum(2)
    return (targets.to(squares.dtype) * squares).sum(1).mean() / 2


@REGULARIZERS.register("center")
class Center(nn.Module):
    """Half the squared distance between features and the centre of their class; the centres are learnt, too.

    The centres are parameters: they train with the network's, are in the checkpoint, have no weight decay, and are not
    exported. As in the paper, how fast they follow does not depend on the penalty's weight. Weights of 1e-3 to 0.05
    are usual.

    Args:
        num_classes: a fact of the data.
        feature_dim: a fact of the model.
        weight: that of this regularizer, which the centres' gradient is divided by.

    Raises:
        UserError: the features' length is not known, or has changed since.

    Example::

        regularizers: {name: center, weight: 0.01}

    Source: Wen, Zhang, Li and Qiao, A Discriminative Feature Learning Approach for Deep Face Recognition, 2016,
    10.1007/978-3-319-46478-7_31.
    """

    def __init__(self, num_classes: int, feature_dim: int | None = None, weight: float = 1.0) -> None:
        super().__init__()
        if feature_dim is None:
            raise UserError("centres need to know the length of the features, and this network has no `feature_dim`.")
        self.weight = float(weight)
        self.centers = nn.Parameter(torch.zeros(num_classes, feature_dim))
        self.feature_width = feature_dim

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        with torch.autocast(output.features.device.type, enabled=False):
            features, centers = full_precision(output.features), full_precision(self.centers)
            if self.weight:
                known = centers.detach()
                centers = known + (centers - known) / self.weight  # the same value, another gradient
            return center_loss(features, output.targets, centers)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"{self.centers.shape[0]} centres of {self.feature_width} features"
