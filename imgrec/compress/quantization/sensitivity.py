"""Sensitivity of layers to a lower precision, and search for the layers that stay in floating point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Result = TypeVar("Result")
Layers = tuple[str, ...]


def divergence(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Return the mean Kullback-Leibler divergence of the probabilities from those of a reference, in nats.

    Args:
        reference: Logits of the reference, ``(N, num_classes)``.
        logits: Logits to compare, of the same shape.

    Example:
        >>> divergence(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))
        0.0
    """
    before, after = (_log_probabilities(each) for each in (reference, logits))
    found = (np.exp(before) * (before - after)).sum(axis=1).mean()
    return max(0.0, float(found))


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def group_layers(layers: Sequence[str], max_groups: int = 64) -> list[Layers]:
    """Return at most ``max_groups`` groups of consecutive layers, with one layer per group in a short network.

    Example:
        >>> group_layers(["a", "b", "c", "d", "e"], max_groups=2)
        [('a', 'b', 'c'), ('d', 'e')]
    """
    size = -(-len(layers) // max_groups)
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


def rank_layers(groups: Sequence[Layers], measure: Callable[[Layers], float]) -> list[tuple[Layers, float]]:
    """Return the groups with their costs, in descending order. The order of equal costs is kept.

    Args:
        groups: Groups of layers, see :func:`group_layers`.
        measure: Function that returns the cost of a lower precision in the given layers only.
    """
    found = [(group, measure(group)) for group in groups]
    return sorted(found, key=lambda pair: -pair[1])


@dataclass(frozen=True)
class Trial(Generic[Result]):
    """Result of an evaluation with some layers in floating point."""

    kept: Layers
    result: Result


@dataclass(frozen=True)
class BudgetSearch(Generic[Result]):
    """Result of :func:`search_budget`.

    Attributes:
        holds: True if a trial is within the budget.
        best: Trial with the fewest layers in floating point within the budget. If none is, the trial of lowest cost.
        trials: All trials in order.
    """

    holds: bool
    best: Trial[Result]
    trials: tuple[Trial[Result], ...]


def search_budget(
    rank: Callable[[], Sequence[Layers]],
    evaluate: Callable[[Layers], Result],
    cost: Callable[[Result], float],
    budget: float,
    max_kept: int,
) -> BudgetSearch[Result]:
    """Find the smallest number of sensitive layers in floating point that meets a budget.

    The first trial keeps no layer. If its cost is above the budget, the layers are ranked, and 1, 2, 4, 8, ... groups
    are kept. The exact number is then found by bisection. A network of 64 groups requires about ten trials. The search
    assumes that a further layer in floating point does not increase the cost.

    Args:
        rank: Function that returns groups of layers, the most sensitive first. It is called only if required.
        evaluate: Function that builds the network with the given layers in floating point and evaluates it.
        cost: Function that returns the cost of a result, for example lost points of accuracy.
        budget: Largest accepted cost.
        max_kept: Largest number of layers in floating point.

    Example:
        >>> found = search_budget(lambda: [("b",), ("a",), ("c",)], lambda kept: 3.0 - len(kept), float, 1.0, 3)
        >>> found.holds, found.best.kept
        (True, ('b', 'a'))
    """
    trials = [Trial[Result]((), evaluate(()))]
    if cost(trials[0].result) <= budget:
        return BudgetSearch(True, trials[0], tuple(trials))
    groups = list(rank()) if max_kept > 0 else []
    counts = [sum(len(group) for group in groups[:i]) for i in range(len(groups) + 1)]
    most = max(i for i, count in enumerate(counts) if count <= max_kept)

    def holds(number: int) -> bool:
        kept = tuple(layer for group in groups[:number] for layer in group)
        trials.append(Trial(kept, evaluate(kept)))
        return cost(trials[-1].result) <= budget

    low, high = 0, min(1, most)
    while high > low and not holds(high):
        low, high = high, min(2 * high, most)
    if high == low:
        nearest = min(trials, key=lambda trial: (cost(trial.result), len(trial.kept)))
        return BudgetSearch(False, nearest, tuple(trials))
    best = trials[-1]
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high, best = middle, trials[-1]
        else:
            low = middle
    return BudgetSearch(True, best, tuple(trials))
