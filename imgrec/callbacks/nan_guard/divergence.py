"""When a loss is no longer going down but away."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import Any

_ENOUGH = 20
"""Losses before there is a median to compare with."""


class Divergence:
    """Tells when the loss is above ``factor`` times its running median for so many steps in a row.

    The median is that of the last ``window`` losses that were not too high themselves; with fewer than 20 of them
    nothing is said, nor where it is not above 0.

    Args:
        factor: how many times the median is too high.
        steps: how many losses in a row have to be.
        window: how many losses the median is of.

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
        """The running median, where there is one."""
        return median(self._losses) if len(self._losses) >= _ENOUGH else None

    def update(self, loss: float) -> bool:
        """Take in the loss of a step; whether it diverges now."""
        middle = self.median
        if middle is not None and 0 < self.factor * middle < loss:
            self.high += 1
        else:
            self.high = 0
            self._losses.append(loss)
        return self.high >= self.steps

    def state_dict(self) -> dict[str, Any]:
        """The losses, and how many in a row were too high."""
        return {"losses": list(self._losses), "high": self.high}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._losses.clear()
        self._losses.extend(state["losses"])
        self.high = state["high"]
