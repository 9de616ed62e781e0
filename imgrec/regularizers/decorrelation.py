"""Penalties on how the features of a batch lie: no two of them say the same, and no two images are on one spot."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgrec.losses.base import full_precision
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.vectors import unit_length


def decorrelation_penalty(features: Tensor, standardize: bool = False) -> Tensor:
    """Half the sum of the squared covariances of different features over a batch, a scalar.

    Args:
        features: float ``(batch, feature_dim)``.
        standardize: correlations in the place of covariances, so that the features' scale plays no part.

    >>> decorrelation_penalty(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]))  # both covariances are 2
    tensor(4.)
    """
    features = full_precision(features)
    centered = features - features.mean(0)
    if standardize:
        centered = centered / (centered.square().mean(0) + 1e-5).sqrt()
    covariance = centered.T @ centered / len(features)
    penalty: Tensor = (covariance.square().sum() - covariance.diagonal().square().sum()) / 2
    return penalty


def koleo_penalty(features: Tensor) -> Tensor:
    """The mean of ``-log`` of the distance to the nearest other, of the features as directions, a scalar.

    Args:
        features: float ``(batch, feature_dim)``; of fewer than two it is zero.

    >>> koleo_penalty(torch.eye(3)).neg().exp()  # all are the square root of 2 apart
    tensor(1.4142)
    """
    features = full_precision(features)
    if len(features) < 2:
        return features.sum() * 0
    directions = unit_length(features)
    with torch.no_grad():
        cosines = directions @ directions.T
        nearest = cosines.fill_diagonal_(-2).argmax(1)
    gaps: Tensor = torch.linalg.vector_norm(directions - directions[nearest], dim=1)
    return -(gaps + 1e-8).log().mean()


@REGULARIZERS.register("decorrelation")
class Decorrelation(nn.Module):
    """The squared covariances between different features of a batch: each says something of its own.

    The mean over pairs: ``features * (features - 1)`` of them, so that a weight means the same for a network of any
    width. A batch of fewer images than features makes covariances that are not there; small weights, or large batches.

    Args:
        standardize: correlations in the place of covariances: the features' scale plays no part.

    Example::

        regularizers: {name: decorrelation, weight: 0.1, standardize: true}

    Source: Cogswell et al., Reducing Overfitting in Deep Networks by Decorrelating Representations, 2016,
    arXiv:1511.06068; correlations: Zbontar et al., Barlow Twins, 2021, arXiv:2103.03230.
    """

    def __init__(self, standardize: bool = False) -> None:
        super().__init__()
        self.standardize = standardize

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        with torch.autocast(output.features.device.type, enabled=False):
            width = output.features.shape[1]
            return decorrelation_penalty(output.features, self.standardize) / max(width * (width - 1), 1)


@REGULARIZERS.register("koleo")
class KoLeo(nn.Module):
    """Minus the logarithm of each image's distance to its nearest neighbour: features spread over all directions.

    Classes are pushed apart inside, too: small weights, 0.01 to 0.1, beside a loss on the labels.

    Example::

        regularizers: {name: koleo, weight: 0.05}

    Source: Sablayrolles, Douze, Schmid and Jegou, Spreading Vectors for Similarity Search, 2019, arXiv:1806.03198;
    Oquab et al., DINOv2, 2023, arXiv:2304.07193.
    """

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        with torch.autocast(output.features.device.type, enabled=False):
            return koleo_penalty(output.features)
