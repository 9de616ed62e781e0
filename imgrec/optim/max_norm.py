"""Max-norm constraint on weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from imgrec.optim.gradient_clipping import unit_norms


@torch.no_grad()
def project_max_norm_(weights: Iterable[Tensor], limit: float) -> None:
    """Scale the weights of each unit to a Euclidean norm of at most ``limit``, in place.

    Args:
        weights: Tensors. A unit is a filter, or a row of a matrix, that computes one output.
        limit: Maximum norm.

    Source: Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014, JMLR 15,
    section 5.1.

    >>> weight = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> project_max_norm_([weight], limit=2.0)
    >>> weight
    tensor([[1.2000, 1.6000],
            [0.3000, 0.4000]])
    """
    for weight in weights:
        norms = unit_norms(weight)
        weight.mul_(
            torch.where(norms > limit, limit / norms.clamp_min(torch.finfo(norms.dtype).tiny), torch.ones_like(norms))
        )
