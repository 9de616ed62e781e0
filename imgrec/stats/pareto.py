"""Pareto front of models by cost and quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def pareto_frontier(costs: ArrayLike, values: ArrayLike) -> list[int]:
    """Return the indices of the points that no other point dominates, by increasing cost.

    A point dominates another if its cost is not higher, its value is not lower, and one of the two differs. Of equal
    points all are returned. A point with a NaN is never returned.

    Args:
        costs: Costs of shape ``(N,)``. Lower is better.
        values: Values of shape ``(N,)``. Higher is better.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> pareto_frontier([1.0, 2.0, 3.0, 2.5], [0.7, 0.9, 0.9, 0.8])
        [0, 1]
    """
    cost, value = np.asarray(costs, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != value.shape:
        raise ValueError(f"expected two arrays of one shape (N,), got {cost.shape} and {value.shape}")
    known = np.flatnonzero(~(np.isnan(cost) | np.isnan(value)))
    order = known[np.lexsort((-value[known], cost[known]))]  # by cost, then by value with the highest first
    front: list[int] = []
    for index in order.tolist():
        last = front[-1] if front else None
        if last is None or value[index] > value[last] or (value[index], cost[index]) == (value[last], cost[last]):
            front.append(index)
    return front
