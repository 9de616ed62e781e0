"""Vectors of length 1, and lengths, of values of any magnitude."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def of_size_one(values: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return the values divided by their largest absolute value over ``dim``, and that value; zeros stay.

    A sum of squares of float32 values below 1e-23 is 0, and of values above 1e19 it is infinite. After this division
    the largest square is 1. The divisor has no gradient: what is computed from the quotient must not depend on it.

    Args:
        values: float, of any shape.
        dim: dimensions that are taken together.

    Returns:
        The quotient, and the divisor with ``dim`` kept, 1 if all values are 0.
    """
    largest = values.detach().abs().amax(dim, keepdim=True)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    return values / largest, largest


def unit_length(vectors: Tensor, dim: int = 1) -> Tensor:
    """Return the vectors with a Euclidean length of 1 over ``dim``, whatever their length; zeros stay.

    ``torch.nn.functional.normalize`` gives vectors shorter than 1e-12 a smaller length, and vectors longer than 1e19
    the length 0.

    Args:
        vectors: float, of any shape.
        dim: the dimension of the components.

    >>> unit_length(torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    return F.normalize(of_size_one(vectors, dim)[0], dim=dim)
