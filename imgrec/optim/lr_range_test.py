"""The learning-rate range test: which rates are tried, when it is enough, and what the curve of the losses suggests."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.errors import UserError

_SCATTERS = 2.0
"""How many times the scatter between batches the loss has to fall by: mere scatter does so once in a thousand tests."""
_FEWEST = 10
_SMOOTHED = 0.025
"""The width of the Gaussian that smooths the curve, as a part of it."""


def exponential_rates(low: float, high: float, steps: int) -> list[float]:
    """``steps`` learning rates from ``low`` to ``high``, each the same multiple of the one before it.

    >>> [round(rate, 6) for rate in exponential_rates(1e-4, 1.0, 5)]
    [0.0001, 0.001, 0.01, 0.1, 1.0]
    """
    return [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]


def smooth(losses: ArrayLike, width: float) -> NDArray[np.float64]:
    """The means of losses around each place, weighted by a Gaussian of ``width`` places; what is beyond an end is not.

    A mean of the past alone, as an exponential moving average is, would move the whole curve towards higher rates, by
    as many places as it remembers.

    >>> smooth([1.0, 1.0, 4.0, 1.0, 1.0], width=0.5).round(2).tolist()
    [1.0, 1.32, 3.36, 1.32, 1.0]
    """
    values = np.asarray(losses, dtype=np.float64)
    places = np.arange(len(values))
    weights = np.exp(-0.5 * ((places[:, None] - places[None, :]) / width) ** 2)
    found: NDArray[np.float64] = weights @ values / weights.sum(axis=1)
    return found


class Diverged:
    """Tells when a range test has seen enough: the loss is no number, or far above the least that it was.

    Args:
        factor: how many times the least running mean is too high.
        decay: of the running mean: what stays at each step.

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
        """Take in the loss of a step; whether it is enough."""
        if not math.isfinite(loss):
            return True
        self._sum = self.decay * self._sum + (1 - self.decay) * loss
        self._weight = self.decay * self._weight + 1 - self.decay
        mean = self._sum / self._weight
        self._least = min(self._least, mean)
        return mean > self.factor * self._least > 0


def steepest(rates: Sequence[float], losses: NDArray[np.float64]) -> float:
    """The rate at which a smooth curve falls most from one rate to the next multiple of it, before its lowest place.

    Source: Smith, "Cyclical learning rates for training neural networks", 2017, arXiv 1506.01186, whose test it is.

    >>> steepest([1e-4, 1e-3, 1e-2, 1e-1, 1.0], np.array([3.0, 2.9, 1.5, 1.4, 9.0]))
    0.001
    """
    end = max(int(losses.argmin()), 1)
    slopes = np.gradient(losses, np.log(np.asarray(rates)))
    return float(rates[int(slopes[: end + 1].argmin())])


def valley(rates: Sequence[float], losses: NDArray[np.float64]) -> float:
    """The rate in the middle of a smooth curve's longest way down.

    That way is the longest sequence of places, not all of them neighbours, whose losses fall.

    Source: fastai's ``valley``, https://docs.fast.ai/callback.schedule.html#valley; there it begins as many places
    before its end as it is long.

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
    """A tenth of the rate at which a smooth curve is lowest.

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
"""Rules by name: rates and smooth losses to a suggestion."""


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw.

    Attributes:
        rates: the learning rate of each step, rising.
        losses: the training loss of each step, finite.
        diverged: whether it was ended because the loss went away.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    diverged: bool

    @property
    def smoothed(self) -> NDArray[np.float64]:
        """The curve that the rules look at."""
        return smooth(self.losses, max(1.0, _SMOOTHED * len(self.losses)))

    def suggestions(self) -> dict[str, float]:
        """What each rule of :data:`RULES` suggests, by its name.

        Raises:
            UserError: there are too few steps, or the loss never fell by more than batches differ.
        """
        if len(self.losses) < _FEWEST:
            end = " before the loss diverged; begin lower" if self.diverged else ""
            raise UserError(
                f"a range test of {len(self.losses)} steps{end}: {_FEWEST} are the fewest that say anything"
            )
        curve = self.smoothed
        lowest = int(curve.argmin())
        begun = max(_FEWEST // 2, lowest // 2)
        scatter = float(np.diff(self.losses[: 2 * begun]).std()) / math.sqrt(2)  # neighbours differ by twice its square
        if curve[:begun].mean() - curve[lowest] <= _SCATTERS * scatter:
            raise UserError(
                f"the loss fell nowhere between the learning rates {self.rates[0]:.2g} and {self.rates[-1]:.2g} by "
                "more than batches differ: try a wider range, more steps, or larger batches"
            )
        return {name: rule(self.rates, curve) for name, rule in RULES.items()}
