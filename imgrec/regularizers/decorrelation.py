"""Penalties on the distribution of features: decorrelation of dimensions, and uniform spread of images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgrec.losses.base import full_precision
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.vectors import unit_length


def decorrelation_penalty(features: Tensor, standardize: bool = False) -> Tensor:
    """Return half the sum of the squared covariances of different features over a batch, a scalar.

    Args:
        features: Float ``(batch, feature_dim)``.
        standardize: Use correlations instead of covariances, independent of the scale of the features. Defaults to
            ``False``.

    Example:
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
    """Return the mean of ``-log`` of the distance to the nearest other direction, a scalar.

    Args:
        features: Float ``(batch, feature_dim)``, normalized to length 1 here. The result is 0 for fewer than two rows.

    Example:
        >>> koleo_penalty(torch.eye(3)).neg().exp()  # all distances are the square root of 2
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
    """Squared covariances between different features of a batch, which reduces redundancy.

    The value is the mean over the ``features * (features - 1)`` pairs, so that a weight has the same effect for any
    width. The estimate is noisy if the batch has fewer images than features. Use small weights or large batches then.

    Args:
        standardize: Use correlations instead of covariances, independent of the scale of the features. Defaults to
            ``False``.

    Example::

        regularizers: {name: decorrelation, weight: 0.1, standardize: true}

    See Also:
        :func:`decorrelation_penalty`. Use :class:`KoLeo` instead to spread images rather than dimensions.

    Source: Cogswell et al., Reducing Overfitting in Deep Networks by Decorrelating Representations, 2016,
    arXiv:1511.06068; correlations: Zbontar et al., Barlow Twins, 2021, arXiv:2103.03230.
    """

    def __init__(self, standardize: bool = False) -> None:
        super().__init__()
        self.standardize = standardize

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        with torch.autocast(output.features.device.type, enabled=False):
            width = output.features.shape[1]
            return decorrelation_penalty(output.features, self.standardize) / max(width * (width - 1), 1)


@REGULARIZERS.register("koleo")
class KoLeo(nn.Module):
    """Kozachenko-Leonenko entropy estimator: features spread uniformly over all directions.

    The value is minus the logarithm of the distance of each image to its nearest neighbor. It also separates images of
    the same class, so use small weights, 0.01 to 0.1, in addition to a loss on the labels.

    Example::

        regularizers: {name: koleo, weight: 0.05}

    See Also:
        :func:`koleo_penalty`. Use :class:`SupervisedContrastive` instead to separate only different classes.

    Source: Sablayrolles, Douze, Schmid and Jegou, Spreading Vectors for Similarity Search, 2019, arXiv:1806.03198;
    Oquab et al., DINOv2, 2023, arXiv:2304.07193.
    """

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        with torch.autocast(output.features.device.type, enabled=False):
            return koleo_penalty(output.features)
