"""Supervised contrastive learning: images of a class near one another, as directions, and all others far."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import full_precision, in_range
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.pairwise import agreement, cosine_similarities
from imgrec.types import StepOutput


def supervised_contrastive(features: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """The supervised contrastive loss of a batch, a scalar, with the sum over positives outside the logarithm.

    For each image it is the mean of ``-log p(other | image)`` over the others of its class, where ``p`` is the softmax
    of the cosines over the temperature among all others; images without another one of their class are left out. Of
    mixed images, each other counts by how much the two agree (:func:`imgrec.regularizers.pairwise`), and an image by
    how much it agrees with the one that it agrees with most: on one-hot probabilities that is the same.

    Args:
        features: float ``(batch, feature_dim)``.
        targets: int64 ``(batch,)``, or float ``(batch, num_classes)`` probabilities.
        temperature: above 0.

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
    """Draws the features of a class together, as directions, and pushes those of other classes away.

    It compares the images of a process's batch: large batches, or a sampler that repeats classes, give it pairs. Mixed
    images count by how much their labels agree. Weights of 0.1 to 1 are usual beside cross-entropy.

    Args:
        temperature: above 0: small ones are about the hardest pairs.
        projection: the width of a two-layer network between the features and this loss, which is trained with the rest
            and not exported; by default the features themselves.
        feature_dim: a fact of the model.

    Raises:
        UserError: a temperature of 0 or less, a projection below 1.

    Example::

        regularizers: {name: supervised_contrastive, weight: 0.5, temperature: 0.1, projection: 128}

    Source: Khosla et al., Supervised Contrastive Learning, 2020, arXiv:2004.11362.
    """

    def __init__(self, temperature: float = 0.1, projection: int | None = None, feature_dim: int | None = None) -> None:
        super().__init__()
        self.check_arguments(temperature, projection)
        self.temperature = float(temperature)
        self.projection: nn.Module = nn.Identity()
        if projection is not None:
            if feature_dim is None:
                raise UserError("`projection` needs to know the length of the features, and this network has none.")
            hidden = nn.Linear(feature_dim, feature_dim)
            self.projection = nn.Sequential(hidden, nn.ReLU(), nn.Linear(feature_dim, projection))
            self.feature_width = feature_dim

    @staticmethod
    def check_arguments(temperature: float = 0.1, projection: int | None = None, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        in_range("temperature", temperature, open_low=True)
        if projection is not None and projection < 1:
            raise UserError(f"`projection` must be 1 or more, got {projection}.")

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar; zero, with a gradient of zero, where no two images of the batch share a class."""
        features = self.projection(output.features)
        with torch.autocast(features.device.type, enabled=False):
            return supervised_contrastive(features, output.targets, self.temperature)
