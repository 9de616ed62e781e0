"""Learning-rate range test: tested rates, stopping rule and suggestions from the loss curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.errors import UserError

_REQUIRED_DECREASE = 2.0
"""Required decrease of the loss in standard deviations between batches. Noise exceeds it in 0.1 % of tests."""
_MIN_STEPS = 10
_FILTER_WIDTH = 0.025
"""Width of the Gaussian filter of the curve, as a fraction of its length."""


def exponential_rates(low: float, high: float, steps: int) -> list[float]:
    """Return ``steps`` learning rates from ``low`` to ``high`` with a constant ratio.

    >>> [round(rate, 6) for rate in exponential_rates(1e-4, 1.0, 5)]
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    return [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]


def smooth(losses: ArrayLike, width: float) -> NDArray[np.float64]:
    """Return losses smoothed by a Gaussian of ``width`` positions, normalized at both ends.

    An exponential moving average would shift the curve towards higher rates, because it uses past values only.

    >>> smooth([1.0, 1.0, 4.0, 1.0, 1.0], width=0.5).round(2).tolist()
    [1.0, 1.32, 3.36, 1.32, 1.0]
    """
    values = np.asarray(losses, dtype=np.float64)
    positions = np.arange(len(values))
    weights = np.exp(-0.5 * ((positions[:, None] - positions[None, :]) / width) ** 2)
    found: NDArray[np.float64] = weights @ values / weights.sum(axis=1)
    return found


class Diverged:
    """Stopping rule of a range test: the loss is not finite, or far above its minimum.

    Args:
        factor: Ratio of the running mean to its minimum above which the test stops.
        decay: Decay of the running mean. Defaults to 0.7.

    >>> rule = Diverged(factor=4.0)
    >>> [rule.update(loss) for loss in (2.0, 1.0, 3.0, 30.0, float("nan"))]
    [False, False, False, True, True]
    """

    def __init__(self, factor: float, decay: float = 0.7) -> None:
        self.factor = factor
        self.decay = decay
        self._sum = self._weight = 0.0
        self._least = math.inf

    def update(self, loss: float) -> bool:
        """Add the loss of a step and return True if the test should stop."""
        if not math.isfinite(loss):
            return True
        self._sum = self.decay * self._sum + (1 - self.decay) * loss
        self._weight = self.decay * self._weight + 1 - self.decay
        mean = self._sum / self._weight
        self._least = min(self._least, mean)
        return mean > self.factor * self._least > 0


def steepest(rates: Sequence[float], losses: NDArray[np.float64]) -> float:
    """Return the rate at which a smooth curve decreases most per log rate, before its minimum.

    Source: Smith, "Cyclical learning rates for training neural networks", 2017, arXiv 1506.01186.

    >>> steepest([1e-4, 1e-3, 1e-2, 1e-1, 1.0], np.array([3.0, 2.9, 1.5, 1.4, 9.0]))
    0.001
    """
    end = max(int(losses.argmin()), 1)
    slopes = np.gradient(losses, np.log(np.asarray(rates)))
    return float(rates[int(slopes[: end + 1].argmin())])


def valley(rates: Sequence[float], losses: NDArray[np.float64]) -> float:
    """Return the rate in the middle of the longest decrease of a smooth curve.

    The longest decrease is the longest subsequence of positions with falling losses.

    Source: fastai's ``valley``, https://docs.fast.ai/callback.schedule.html#valley; there the decrease starts at its
    end minus its length.

    >>> round(valley([1e-4, 1e-3, 1e-2, 1e-1, 1.0], np.array([3.0, 2.9, 1.5, 1.4, 9.0])), 6)
    0.003162
    """
    length = np.ones(len(losses), dtype=np.int64)
    start = np.arange(len(losses))
    for i in range(1, len(losses)):
        higher = np.flatnonzero(losses[:i] > losses[i])
        if len(higher):
            before = higher[int(length[higher].argmax())]
            length[i], start[i] = length[before] + 1, start[before]
    end = int(length.argmax())
    return math.sqrt(rates[int(start[end])] * rates[end])


def tenth_of_minimum(rates: Sequence[float], losses: NDArray[np.float64]) -> float:
    """Return a tenth of the rate at the minimum of a smooth curve.

    Source: the rule of thumb of Howard and Gugger, "Deep learning for coders", 2020, chapter 5.

    >>> tenth_of_minimum([1e-4, 1e-3, 1e-2, 1e-1, 1.0], np.array([3.0, 2.9, 1.5, 1.4, 9.0]))
    0.01
    """
    return rates[int(losses.argmin())] / 10


RULES: dict[str, Callable[[Sequence[float], NDArray[np.float64]], float]] = {
    "steepest": steepest,
    "valley": valley,
    "minimum": tenth_of_minimum,
}
"""Rules by name: functions from rates and smooth losses to a suggestion."""


@dataclass(frozen=True)
class RangeTest:
    """Result of a range test.

    Attributes:
        rates: Learning rate of each step, increasing.
        losses: Finite training loss of each step.
        diverged: True if the test stopped because the loss diverged.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """Smoothed loss curve, the input of the rules."""
        return smooth(self.losses, max(1.0, _FILTER_WIDTH * len(self.losses)))

    def suggestions(self) -> dict[str, float]:
        """Return the suggestion of each rule of :data:`RULES` by its name.

        Raises:
            UserError: If there are too few steps, or if the loss never decreased by more than the noise between
                batches.
        """
        if len(self.losses) < _MIN_STEPS:
            end = " before the loss diverged. Start at a lower rate" if self.diverged else ""
            raise UserError(
                f"learning-rate range test: expected at least {_MIN_STEPS} steps, got {len(self.losses)}{end}."
            )
        curve = self.smoothed
        lowest = int(curve.argmin())
        start = max(_MIN_STEPS // 2, lowest // 2)
        noise = float(np.diff(self.losses[: 2 * start]).std()) / math.sqrt(2)  # a difference has twice the variance
        if curve[:start].mean() - curve[lowest] <= _REQUIRED_DECREASE * noise:
            raise UserError(
                f"the loss did not decrease between the learning rates {self.rates[0]:.2g} and {self.rates[-1]:.2g} by "
                "more than the noise between batches. Use a wider range, more steps, or larger batches."
            )
        return {name: rule(self.rates, curve) for name, rule in RULES.items()}
