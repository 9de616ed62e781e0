from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imgrec.stats.pareto import pareto_frontier


def non_dominated(costs: NDArray[np.float64], values: NDArray[np.float64]) -> set[int]:
    def is_dominated(i: int, j: int) -> bool:
        no_worse = costs[j] <= costs[i] and values[j] >= values[i]
        return bool(no_worse and (costs[j] < costs[i] or values[j] > values[i]))

    return {i for i in range(len(costs)) if not any(is_dominated(i, j) for j in range(len(costs)))}


@pytest.mark.parametrize("seed", range(20))
def test_frontier_equals_its_definition_on_all_pairs(seed: int) -> None:
    generator = np.random.default_rng(seed)
    costs, values = generator.integers(0, 6, (2, 15)).astype(float)  # few values, so that many are equal
    found = pareto_frontier(costs, values)
    assert set(found) == non_dominated(costs, values)
    assert len(found) == len(set(found))
    assert [costs[i] for i in found] == sorted(costs[i] for i in found)


def test_points_with_nan_are_not_on_the_frontier() -> None:
    assert pareto_frontier([1.0, np.nan, 2.0], [0.5, 1.0, np.nan]) == [0]
    assert pareto_frontier([], []) == []
    with pytest.raises(ValueError, match="one shape"):
        pareto_frontier([1.0], [1.0, 2.0])
