"""Detection of a diverging loss."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

_MIN_LOSSES = 20
"""Minimum number of losses of a median."""


class Divergence:
    """Rule that detects a loss above ``factor`` times its running median, in a number of steps in a row.

    The median excludes losses that are too high themselves. It is not used with fewer than 20 losses, or if it is not
    above 0.

    Args:
        factor: Ratio of the loss to the median.
        steps: Number of steps in a row.
        window: Number of losses of the median.

    >>> rule = Divergence(factor=10, steps=3, window=100)
    >>> [rule.update(loss) for loss in [1.0] * 20 + [11.0, 12.0, 2.0, 11.0, 12.0, 13.0]][-4:]
    [False, False, False, True]
    """

    def __init__(self, factor: float, steps: int, window: int) -> None:
        self.factor = factor
        self.steps = steps
        self._losses: deque[float] = deque(maxlen=window)
        self.high = 0

    @property
    def median(self) -> float | None:
        """Running median, or None with too few losses."""
        return median(self._losses) if len(self._losses) >= _MIN_LOSSES else None

    def update(self, loss: float) -> bool:
        """Add the loss of a step. Return True if the loss diverges."""
        middle = self.median
        if middle is not None and 0 < self.factor * middle < loss:
            self.high += 1
        else:
            self.high = 0
            self._losses.append(loss)
        return self.high >= self.steps

    def state_dict(self) -> dict[str, Any]:
        """Return the losses and the number of high losses in a row."""
        return {"losses": list(self._losses), "high": self.high}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self._losses.clear()
        self._losses.extend(state["losses"])
        self.high = state["high"]
