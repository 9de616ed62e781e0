"""The frontier, against its definition tried on every pair of points."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imgrec.stats.pareto import pareto_frontier


def undominated(costs: NDArray[np.float64], values: NDArray[np.float64]) -> set[int]:
    def beaten(i: int, j: int) -> bool:
        no_worse = costs[j] <= costs[i] and values[j] >= values[i]
        return bool(no_worse and (costs[j] < costs[i] or values[j] > values[i]))

    return {i for i in range(len(costs)) if not any(beaten(i, j) for j in range(len(costs)))}


@pytest.mark.parametrize("seed", range(20))
def test_the_frontier_is_what_nothing_beats(seed: int) -> None:
    generator = np.random.default_rng(seed)
    costs, values = generator.integers(0, 6, (2, 15)).astype(float)  # so few that many are equal
    found = pareto_frontier(costs, values)
    assert set(found) == undominated(costs, values)
    assert len(found) == len(set(found))
    assert [costs[i] for i in found] == sorted(costs[i] for i in found)


def test_what_has_no_figure_is_on_no_frontier() -> None:
    assert pareto_frontier([1.0, np.nan, 2.0], [0.5, 1.0, np.nan]) == [0]
    assert pareto_frontier([], []) == []
    with pytest.raises(ValueError, match="one shape"):
        pareto_frontier([1.0], [1.0, 2.0])
