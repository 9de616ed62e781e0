"""Adaptive gradient clipping by the norm of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imgrec.utils.vectors import of_size_one


def unit_norms(tensor: Tensor) -> Tensor:
    """Return the Euclidean norm of each unit, in a shape that multiplies the tensor.

    A unit is a filter, or a row of a matrix, that computes one output. All of a bias or a scale is one unit.

    >>> unit_norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[5.],
            [0.]])
    """
    inner = tuple(range(1, tensor.ndim))
    scaled, largest = of_size_one(tensor, inner or tuple(range(tensor.ndim)))
    norms: Tensor = torch.linalg.vector_norm(scaled, dim=inner or None, keepdim=bool(inner))
    return norms * largest.reshape(norms.shape)


@torch.no_grad()
def clip_adaptively_(
    gradients: Sequence[Tensor], weights: Sequence[Tensor], factor: float = 0.01, eps: float = 1e-3
) -> None:
    """Scale the gradient of each unit to at most ``factor`` times the norm of its weights, in place.

    Args:
        gradients: Gradients of the weights.
        weights: Weights, in the shapes of the gradients.
        factor: Maximum ratio of the two norms. Defaults to 0.01.
        eps: Lower bound of the norm of the weights, so that weights initialized with zero can grow. Defaults to 1e-3.

    Source: Brock et al., High-Performance Large-Scale Image Recognition Without Normalization, 2021, arXiv:2102.06171.

    >>> gradient = torch.tensor([[3.0, 4.0], [0.03, 0.04]])
    >>> clip_adaptively_([gradient], [torch.tensor([[1.0, 0.0], [0.0, 10.0]])], factor=0.1)
    >>> gradient
    tensor([[0.0600, 0.0800],
            [0.0300, 0.0400]])
    """
    for gradient, weight in zip(gradients, weights, strict=True):
        highest = unit_norms(weight).clamp(min=eps) * factor
        norms = unit_norms(gradient)
        gradient.mul_(torch.where(norms > highest, highest / norms, 1.0))
