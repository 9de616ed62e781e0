"""How sparse a network should be at a moment of training."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Decisions:
    """At which optimizer steps, counted from 0, masks are decided: first, every so many, and last."""

    first: int
    last: int
    every: int

    @classmethod
    def of(
        cls,
        steps: int,
        start: float = 0.0,
        end: float = 0.5,
        shape: Shape = "cubic",
        every: int | None = None,
        gathered: int = 1,
    ) -> Decisions:
        """Between two fractions of a training of so many steps; the last is made while there is a step to come.

        Args:
            steps: the optimizer steps of the training.
            start: the fraction at which the first is made.
            end: the fraction at which the last is made.
            shape: ``one_shot`` has one decision, at ``start``.
            every: the steps between two; by default so many that there are about 50, and not fewer than ``gathered``.
            gathered: how many steps' gradients each rests on; the first waits for them.

        >>> Decisions.of(1000, 0.2, 0.6), Decisions.of(1000, shape="one_shot", gathered=5)
        (Decisions(first=200, last=600, every=8), Decisions(first=4, last=4, every=1))
        """
        latest = max(0, steps - 1)
        first = min(max(round(start * steps), gathered - 1), latest)
        last = first if shape == "one_shot" else max(first, min(round(end * steps), latest))
        usual = max(gathered, (last - first) // 50, 1) if last > first else 1
        return cls(first, last, every or usual)

    def due(self, step: int) -> int | None:
        """The latest decision that is due at a step; ``None`` before the first."""
        if step < self.first:
            return None
        return self.last if step >= self.last else step - (step - self.first) % self.every

    def following(self, step: int) -> int | None:
        """The first decision at or after a step; ``None`` after the last."""
        if step > self.last:
            return None
        return min(self.last, max(self.first, step + (self.first - step) % self.every))
