"""Supervised contrastive loss on the features of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import full_precision
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.pairwise import agreement, cosine_similarities
from imgrec.types import StepOutput
from imgrec.utils.ranges import PositiveFloat, PositiveInt, check_ranges


def supervised_contrastive(features: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """Return the supervised contrastive loss of a batch, a scalar, with the sum over positives outside the logarithm.

    For each image it is the mean of ``-log p(other | image)`` over the other images of its class. Here ``p`` is the
    softmax over all other images of the cosines divided by the temperature. Images without a second image of their
    class are excluded. For mixed images, each other image is weighted by the agreement of both targets, see
    :func:`imgrec.regularizers.agreement`. Each image is weighted by its largest agreement. One-hot targets give the
    same value as class indices.

    Args:
        features: Float ``(batch, feature_dim)``.
        targets: Int64 ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        temperature: Divisor of the cosines, above 0. Defaults to 0.1.

    Example:
        >>> features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> supervised_contrastive(features, torch.tensor([0, 0, 1]), temperature=1.0)  # log(1 + 1 / e)
        tensor(0.3133)
    """
    features = full_precision(features)
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    logits = cosine_similarities(features) / temperature
    log_p = logits - logits.masked_fill(itself, -torch.inf).logsumexp(1, keepdim=True)
    shares = agreement(targets).masked_fill(itself, 0)
    of_image = -(shares * log_p.masked_fill(itself, 0)).sum(1) / shares.sum(1).clamp_min(1e-12)
    counts = shares.amax(1)
    if len(features) < 2:
        return features.sum() * 0
    return (counts * of_image).sum() / counts.sum().clamp_min(1e-12)


@REGULARIZERS.register("supervised_contrastive")
class SupervisedContrastive(nn.Module):
    """Supervised contrastive loss: features of a class become similar, features of different classes dissimilar.

    It compares the images of the batch of one process. Large batches, or a sampler that repeats classes, provide pairs.
    Mixed images are weighted by the agreement of their labels. Weights of 0.1 to 1 are usual in addition to
    cross-entropy.

    Args:
        temperature: Divisor of the cosines, above 0. Small values emphasize the hardest pairs. Defaults to 0.1.
        projection: Output width of a two-layer network between the features and this loss, at least 1. It is trained
            and not exported. Defaults to no projection.
        feature_dim: Length of the features, a fact of the model.

    Raises:
        UserError: If ``temperature`` or ``projection`` is out of range.

    Example::

        regularizers: {name: supervised_contrastive, weight: 0.5, temperature: 0.1, projection: 128}

    See Also:
        :func:`supervised_contrastive`. Use :class:`Triplet` instead for small batches, :class:`Center` for batches with
        few images per class.

    Source: Khosla et al., Supervised Contrastive Learning, 2020, arXiv:2004.11362.
    """

    @check_ranges
    def __init__(
        self, temperature: PositiveFloat = 0.1, projection: PositiveInt | None = None, feature_dim: int | None = None
    ) -> None:
        super().__init__()
        self.temperature = float(temperature)
        self.projection: nn.Module = nn.Identity()
        if projection is not None:
            if feature_dim is None:
                raise UserError("projection: requires `feature_dim`, and this network has none.")
            hidden = nn.Linear(feature_dim, feature_dim)
            self.projection = nn.Sequential(hidden, nn.ReLU(), nn.Linear(feature_dim, projection))
            self.feature_width = feature_dim

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar. It and its gradient are zero if no two images of the batch share a class."""
        features = self.projection(output.features)
        with torch.autocast(features.device.type, enabled=False):
            return supervised_contrastive(features, output.targets, self.temperature)
