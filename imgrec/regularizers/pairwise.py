"""Comparisons of the samples of a batch: agreement of targets and similarity of features."""

from __future__ import annotations

from torch import Tensor

from imgrec.utils.vectors import unit_length


def agreement(targets: Tensor) -> Tensor:
    """Return for each pair of a batch the probability that labels drawn from both targets agree, ``(batch, batch)``.

    For class indices it is 1 if they are equal and 0 otherwise. For probabilities it is the sum of the products, so
    that one-hot targets give the same values as indices, and mixed images agree partly.

    Args:
        targets: Int64 ``(batch,)`` or float probabilities ``(batch, num_classes)``.

    >>> import torch
    >>> agreement(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.75, 0.25]]))[2]
    tensor([0.7500, 0.2500, 0.6250])
    """
    if targets.is_floating_point():
        probabilities = targets.float()
        return probabilities @ probabilities.T
    return (targets[:, None] == targets[None, :]).float()


def cosine_similarities(features: Tensor) -> Tensor:
    """Return the cosine of each pair of vectors, ``(batch, batch)``, of float ``(batch, feature_dim)``."""
    directions = unit_length(features)
    return directions @ directions.T
