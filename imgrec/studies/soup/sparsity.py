"""The zeros that a mean of masked networks loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_NOTICED = 1e-3


def share_of_zeros(state: Mapping[str, Tensor]) -> float:
    """Return the share of zeros among the weights of a network: floating-point tensors of two dimensions or more.

    >>> share_of_zeros({"weight": torch.tensor([[0.0, 1.0], [2.0, 0.0]]), "bias": torch.zeros(2)})
    0.5
    """
    weights = [value for value in state.values() if value.ndim > 1 and value.is_floating_point()]
    count = sum(weight.numel() for weight in weights)
    return 1 - sum(int(torch.count_nonzero(weight)) for weight in weights) / count if count else 0.0


def lost_zeros(states: Sequence[Mapping[str, Tensor]], mean: Mapping[str, Tensor]) -> dict[str, float] | None:
    """Return the shares of zeros of the networks and of their mean; ``None`` if the mean keeps them.

    A mean has a zero only if all networks have it. Masks of one pruning agree; masks of different runs do not.

    Args:
        states: state dicts of the networks.
        mean: state dict of their mean.

    Returns:
        The largest share among the networks and the share of the mean, if the mean has fewer zeros by 0.1 % of the
        weights or more.
    """
    before, after = max(map(share_of_zeros, states)), share_of_zeros(mean)
    return {"networks": before, "soup": after} if before - after >= _NOTICED else None
