"""Normalization of vectors of any magnitude, without overflow and underflow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def of_size_one(values: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the values divided by their largest absolute value over ``dim``, and the divisor.

    A sum of squares of float32 values below 1e-23 is 0, and of values above 1e19 it is infinite. After this division
    the largest square is 1. The divisor has no gradient. Results computed from the quotient must not depend on it.

    Args:
        values: Float tensor of any shape.
        dim: Dimensions of one vector.

    Returns:
        The quotient, and the divisor with ``dim`` kept. The divisor of zeros is 1.
    """
    largest = values.detach().abs().amax(dim, keepdim=True)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    return values / largest, largest


def unit_length(vectors: Tensor, dim: int = 1) -> Tensor:
    """Normalize vectors of any magnitude to a Euclidean length of 1. Zero vectors are unchanged.

    ``torch.nn.functional.normalize`` returns a smaller length for vectors shorter than 1e-12, and the length 0 for
    vectors longer than 1e19.

    Args:
        vectors: Float tensor of any shape.
        dim: Dimension of the components. Defaults to 1.

    >>> unit_length(torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return F.normalize(of_size_one(vectors, dim)[0], dim=dim)
