"""Which layers suffer from a lower precision, and how few have to stay in floating point: pure search, no runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

Result = TypeVar("Result")
Layers = tuple[str, ...]


def divergence(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """How far ``logits`` lead from the probabilities of ``reference``: the mean Kullback-Leibler divergence, in nats.

    Shapes: both ``(N, num_classes)``.

    >>> divergence(np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32))
    0.0
    """
    before, after = (_log_probabilities(each) for each in (reference, logits))
    found = (np.exp(before) * (before - after)).sum(axis=1).mean()
    return max(0.0, float(found))


def _log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def neighbours(layers: Sequence[str], at_most: int = 64) -> list[Layers]:
    """The layers one by one, or in a long network in groups of neighbours, of which there are ``at_most``.

    >>> neighbours(["a", "b", "c", "d", "e"], at_most=2)
    [('a', 'b', 'c'), ('d', 'e')]
    """
    size = -(-len(layers) // at_most)
    return [tuple(layers[start : start + size]) for start in range(0, len(layers), size)]


def rank_layers(groups: Sequence[Layers], measure: Callable[[Layers], float]) -> list[tuple[Layers, float]]:
    """The groups with what each alone costs, the most expensive first; of equal ones the earlier.

    Args:
        groups: see :func:`neighbours`.
        measure: what it costs to lower the precision of these layers and of no others.
    """
    found = [(group, measure(group)) for group in groups]
    return sorted(found, key=lambda pair: -pair[1])


@dataclass(frozen=True)
class Trial(Generic[Result]):
    """What came out with some layers kept in floating point."""

    kept: Layers
    result: Result


@dataclass(frozen=True)
class Search(Generic[Result]):
    """The end of a search: whether the budget holds, and with what; ``trials`` in the order in which they were made.

    Where it does not hold, ``best`` is the trial that came nearest.
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
) -> Search[Result]:
    """Keep as few of the most sensitive layers in floating point as the budget asks for.

    First none is kept; where that costs too much, the layers are ranked, and 1, 2, 4, 8, ... groups of them kept, then
    the fewest found between the last number that was too small and the first that was not. So a network of 64 groups
    takes some ten trials. It takes for granted that a further layer in floating point does not harm.

    Args:
        rank: gives groups of layers, the most sensitive first; asked only where it is needed.
        evaluate: makes the network with these layers kept, and measures it.
        cost: what a result costs: points of accuracy.
        budget: what it may cost.
        max_kept: at most so many layers stay in floating point.

    >>> cheap = search_budget(lambda: [("b",), ("a",), ("c",)], lambda kept: 3.0 - len(kept), float, 1.0, 3)
    >>> cheap.holds, cheap.best.kept
    (True, ('b', 'a'))
    """
    trials = [Trial[Result]((), evaluate(()))]
    if cost(trials[0].result) <= budget:
        return Search(True, trials[0], tuple(trials))
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
        return Search(False, nearest, tuple(trials))
    best = trials[-1]
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high, best = middle, trials[-1]
        else:
            low = middle
    return Search(True, best, tuple(trials))
