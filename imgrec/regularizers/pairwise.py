"""How much two samples of a batch are of the same class, whether they have labels or mixtures of labels."""

from __future__ import annotations

from torch import Tensor

from imgrec.utils.vectors import unit_length


def agreement(targets: Tensor) -> Tensor:
    """For each pair of a batch the chance that labels drawn from their targets agree, float ``(batch, batch)``.

    Of class indices it is 1 where they are equal, else 0. Of probabilities it is the sum of the products, so that
    one-hot ones give what the indices give, and mixed images agree in part.

    Args:
        targets: int64 ``(batch,)``, or float ``(batch, num_classes)`` probabilities.

    >>> import torch
    >>> agreement(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.75, 0.25]]))[2]
    tensor([0.7500, 0.2500, 0.6250])
    """
    if targets.is_floating_point():
        probabilities = targets.float()
        return probabilities @ probabilities.T
    return (targets[:, None] == targets[None, :]).float()


def cosine_similarities(features: Tensor) -> Tensor:
    """The cosine of the angle between each two vectors, ``(batch, batch)``, of float ``(batch, feature_dim)``."""
    directions = unit_length(features)
    return directions @ directions.T
