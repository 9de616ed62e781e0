"""Zeros that are lost when masked models are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_MIN_LOSS = 1e-3


def share_of_zeros(state: Mapping[str, Tensor]) -> float:
    """Return the share of zeros in the weights of a model: floating-point tensors of two dimensions or more.

    >>> share_of_zeros({"weight": torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "bias": torch.zeros(2)})
    0.5
    """
    weights = [value for value in state.values() if value.ndim > 1 and value.is_floating_point()]
    count = sum(weight.numel() for weight in weights)
    return 1 - sum(int(torch.count_nonzero(weight)) for weight in weights) / count if count else 0.0


def lost_zeros(states: Sequence[Mapping[str, Tensor]], mean: Mapping[str, Tensor]) -> dict[str, float] | None:
    """Return the shares of zeros of models and of their mean, or ``None`` if the mean keeps the zeros.

    A mean has a zero only if all models have it. Masks of one pruning agree, masks of different runs do not.

    Args:
        states: State dicts of the models.
        mean: State dict of their mean.

    Returns:
        Largest share of the models and share of the mean, if the mean has fewer zeros by at least 0.1 % of the
        weights.
    """
    before, after = max(map(share_of_zeros, states)), share_of_zeros(mean)
    return {"networks": before, "soup": after} if before - after >= _MIN_LOSS else None
