"""Schedules of pruning during training: sparsity, mask decisions, and rounds of channel pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from imgrec.errors import UserError
from imgrec.utils.ranges import PositiveInt, RightOpenUnitInterval, check_ranges

Shape = Literal["one_shot", "linear", "cubic"]


def sparsity_at(
    progress: float, target: float, start: float = 0.0, end: float = 0.5, shape: Shape = "cubic", initial: float = 0.0
) -> float:
    """Return the scheduled sparsity at a point of training.

    The sparsity is ``initial`` before ``start`` and ``target`` from ``end`` on. Between them it rises in one step
    (``one_shot``), linearly (``linear``), or quickly at first and then more slowly (``cubic``).

    Args:
        progress: Completed fraction of training, in [0, 1].
        target: Final sparsity, in [0, 1).
        start: Fraction of training at which pruning begins. Defaults to 0.
        end: Fraction of training at which the target is reached. Defaults to 0.5.
        shape: Shape of the rise. Defaults to ``cubic``.
        initial: Sparsity at ``start``. Defaults to 0.

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
    """Optimizer steps at which masks are computed: the first, the last and the interval, counted from 0."""

    first: int
    last: int
    every: int

    @classmethod
    def from_fractions(
        cls,
        steps: int,
        start: float = 0.0,
        end: float = 0.5,
        shape: Shape = "cubic",
        every: int | None = None,
        gathered: int = 1,
    ) -> Decisions:
        """Return the decisions between two fractions of training. The last one precedes the last step.

        Args:
            steps: Number of optimizer steps of the training.
            start: Fraction of training of the first decision. Defaults to 0.
            end: Fraction of training of the last decision. Defaults to 0.5.
            shape: ``one_shot`` has one decision, at ``start``. Defaults to ``cubic``.
            every: Steps between two decisions. Defaults to an interval, of at least ``gathered``, that makes about 50.
            gathered: Number of steps whose gradients a decision uses. The first decision waits for them.

        >>> Decisions.from_fractions(1000, 0.2, 0.6), Decisions.from_fractions(1000, shape="one_shot", gathered=5)
        (Decisions(first=200, last=600, every=8), Decisions(first=4, last=4, every=1))
        """
        latest = max(0, steps - 1)
        first = min(max(round(start * steps), gathered - 1), latest)
        last = first if shape == "one_shot" else max(first, min(round(end * steps), latest))
        usual = max(gathered, (last - first) // 50, 1) if last > first else 1
        return cls(first, last, every or usual)

    def due(self, step: int) -> int | None:
        """Return the latest decision at or before a step, or ``None`` before the first."""
        if step < self.first:
            return None
        return self.last if step >= self.last else step - (step - self.first) % self.every

    def following(self, step: int) -> int | None:
        """Return the first decision at or after a step, or ``None`` after the last."""
        if step > self.last:
            return None
        return min(self.last, max(self.first, step + (self.first - step) % self.every))


@dataclass(frozen=True)
class Rounds:
    """Rounds of pruning at equal distances between two fractions of training.

    Args:
        start: Fraction of training of the first round, in [0, 1). Defaults to 0.1.
        end: Fraction of training of the last round, in [0, 1). Not used with one round. Defaults to 0.5.
        rounds: Number of rounds, 1 or more. Defaults to 5.

    Raises:
        UserError: If an argument is out of range, or ``end`` does not follow ``start``.
    """

    start: RightOpenUnitInterval = 0.1
    end: RightOpenUnitInterval = 0.5
    rounds: PositiveInt = 5

    def __post_init__(self) -> None:
        self._check_order(self.start, self.end, self.rounds)

    @staticmethod
    @check_ranges
    def _check_order(start: RightOpenUnitInterval, end: RightOpenUnitInterval, rounds: PositiveInt) -> None:
        if rounds > 1 and start >= end:
            raise UserError(f"start: expected a value below end {end} for several rounds, got {start}.")

    @property
    def last(self) -> float:
        """Fraction of training of the last round."""
        return self.end if self.rounds > 1 else self.start

    def steps_of(self, num_steps: int) -> list[int]:
        """Return the 0-based steps at which to prune.

        Args:
            num_steps: Number of optimizer steps of the training.

        Raises:
            UserError: If two rounds have the same step, or no step follows the last round.

        >>> Rounds(0.1, 0.5, rounds=5).steps_of(1000), Rounds(0.0, rounds=1).steps_of(1000)
        ([100, 200, 300, 400, 500], [0])
        """
        interval = (self.last - self.start) / max(1, self.rounds - 1)
        found = [round((self.start + interval * i) * num_steps) for i in range(self.rounds)]
        if len(set(found)) < len(found) or found[-1] >= num_steps:
            raise UserError(
                f"{self.rounds} round(s) between {self.start:g} and {self.last:g} of {num_steps} steps leave none for "
                "training after each: fewer rounds or more steps are needed."
            )
        return found

    def remaining(self, number: int, target: float) -> float:
        """Return the share that remains after a round. Every round removes the same amount.

        Args:
            number: Number of the round, counted from 1.
            target: Share that remains after the last round.

        >>> [round(Rounds(rounds=5).remaining(i, 0.5), 2) for i in range(1, 6)]
        [0.9, 0.8, 0.7, 0.6, 0.5]
        """
        return 1 - (1 - target) * number / self.rounds
