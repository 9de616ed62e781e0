"""Which of several models nothing else beats in both cost and quality."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def pareto_frontier(costs: ArrayLike, values: ArrayLike) -> list[int]:
    """The places of the points that no other point dominates, the cheapest first.

    A point dominates another where it costs no more and is worth no less, and one of the two differs: of equal points
    all stay. A point with a NaN is never among them.

    Shapes: ``costs`` and ``values`` ``(N,)``; less cost and more value are better.

    Raises:
        ValueError: the shapes differ.

    >>> pareto_frontier([1.0, 2.0, 3.0, 2.5], [0.7, 0.9, 0.9, 0.8])
    [0, 1]
    """
    cost, value = np.asarray(costs, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if cost.ndim != 1 or cost.shape != value.shape:
        raise ValueError(f"expected two arrays of one shape (N,), got {cost.shape} and {value.shape}")
    known = np.flatnonzero(~(np.isnan(cost) | np.isnan(value)))
    order = known[np.lexsort((-value[known], cost[known]))]  # by cost; of one cost the best first
    found: list[int] = []
    for place in order.tolist():
        last = found[-1] if found else None
        if last is None or value[place] > value[last] or (value[place], cost[place]) == (value[last], cost[last]):
            found.append(place)
    return found
