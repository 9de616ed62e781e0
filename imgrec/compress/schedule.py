"""How sparse a network should be at a moment of training."""

from __future__ import annotations

from typing import Literal

Shape = Literal["one_shot", "linear", "cubic"]


def sparsity_at(
    progress: float, target: float, start: float = 0.0, end: float = 0.5, shape: Shape = "cubic", initial: float = 0.0
) -> float:
    """The share of weights that should be zero when ``progress`` of training is done.

    ``initial`` before ``start``, ``target`` from ``end`` on; between them it rises at once (``one_shot``), evenly
    (``linear``), or first fast and then ever slower (``cubic``), when there is most to choose from.

    Args:
        progress: the fraction of training that is done, in [0, 1].
        target: the share at the end, in [0, 1).
        start: the fraction of training at which pruning begins.
        end: the fraction at which the target is reached.
        shape: how it rises.
        initial: the share at ``start``.

    Source: Zhu and Gupta, 2017, "To prune, or not to prune", arXiv 1710.01878 (cubic).

    >>> [round(sparsity_at(p, 0.9, 0.2, 0.6), 4) for p in (0.1, 0.2, 0.4, 0.6, 1.0)]
    [0.0, 0.0, 0.7875, 0.9, 0.9]
    """
    if progress < start:
        return initial
    if progress >= end or shape == "one_shot":
        return target
    left = 1 - (progress - start) / (end - start)
    return target + (initial - target) * (left**3 if shape == "cubic" else left)
