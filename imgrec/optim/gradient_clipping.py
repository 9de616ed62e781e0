"""Adaptive gradient clipping: no unit's gradient is larger than a part of the unit's weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imgrec.utils.vectors import of_size_one


def unit_norms(tensor: Tensor) -> Tensor:
    """Return the Euclidean norm of each unit, in a shape that multiplies the tensor.

    A unit is what makes one output: a filter, a row of a matrix; all of a bias or of a scale together.

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
    """Scale, in place, each unit's gradient down to ``factor`` times the norm of its weights, where it is larger.

    Args:
        gradients: of the weights.
        weights: of the same shapes.
        factor: the largest ratio of the two norms.
        eps: the least norm that a unit's weights are taken to have, so that those that begin at zero can grow.

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
