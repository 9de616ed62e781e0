"""Schedules that go up and down again: one cycle, and cosines with restarts."""

from __future__ import annotations

import bisect
from typing import Literal

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.optim.schedules.base import SCHEDULES, Schedule, cosine_factor, linear_factor

_EDGE = 1e-9  # a restart at 10/70 is at step 10 of 70


def cosine_restarts_factor(
    progress: float, cycles: int = 3, growth: float = 2.0, peak: float = 1.0, final: float = 0.0
) -> float:
    """Several cosines one after another, each ``growth`` times as long as the one before.

    Args:
        progress: in [0, 1].
        cycles: how many.
        growth: of their lengths.
        peak: what the height of each is multiplied by for the next.
        final: where each of them ends.

    >>> [round(cosine_restarts_factor(p, cycles=2, growth=1.0), 3) for p in (0.0, 0.25, 0.5, 0.75, 1.0)]
    [1.0, 0.5, 1.0, 0.5, 0.0]
    """
    lengths = [growth**i for i in range(cycles)]
    starts = [sum(lengths[:i]) / sum(lengths) for i in range(cycles)]
    cycle = min(bisect.bisect_right(starts, progress + _EDGE) - 1, cycles - 1)
    within = min(max((progress - starts[cycle]) * sum(lengths) / lengths[cycle], 0.0), 1.0)
    height = peak**cycle
    return height * cosine_factor(within, min(final / height, 1.0))


@SCHEDULES.register("cosine_restarts")
class CosineRestarts(Schedule):
    """Cosines with warm restarts: down, back up at once, and down again, each time more slowly.

    Args:
        cycles: the number of cosines; 1 is `cosine`.
        growth: how many times longer each is than the one before; 1 for equal ones.
        peak: what the height of each is multiplied by for the next, above 0 and at most 1.
        final: the factor at the end of each, in [0, 1].
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, arXiv:1608.03983.

    Example::

        schedule: {name: cosine_restarts, cycles: 3, growth: 2}
    """

    def __init__(
        self,
        cycles: int = 3,
        growth: float = 2.0,
        peak: float = 1.0,
        final: float = 0.0,
        warmup: float = 0.0,
        warmup_start: float = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        if cycles < 1:
            raise UserError(f"`cycles` must be 1 or more, got {cycles}.")
        self.cycles = cycles
        self.growth = in_range("growth", growth, open_low=True)
        self.peak = in_range("peak", peak, high=1.0, open_low=True)
        self.final = in_range("final", final, high=1.0)

    def curve(self, progress: float) -> float:
        """See :func:`cosine_restarts_factor`."""
        return cosine_restarts_factor(progress, self.cycles, self.growth, self.peak, self.final)


@SCHEDULES.register("one_cycle")
class OneCycle(Schedule):
    """One cycle: up from a small part of the learning rate, and down to next to nothing, along cosines.

    The last step has the factor ``final``, as in torch. Other schedules reach their ``final`` after the last step.

    The learning rate of the optimizer is the highest one. With `momentum: [0.85, 0.95]`, the momentum (of Adam and its
    like the first of `betas`) goes the other way round, as in the paper: down from the second to the first, and up
    again; without, it stays what the optimizer says.

    Args:
        warmup: the part of training, in (0, 1), over which the factor grows to 1.
        warmup_start: the factor of the very first step.
        final: the factor of the last step, in [0, 1]; 4e-6 by default.
        shape: of the way up and of the way down.
        momentum: the lowest and the highest momentum.

    Source: Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2018,
    arXiv:1708.07120; cosines: fastai, whose defaults these are, by way of ``torch.optim.lr_scheduler.OneCycleLR``.

    Example::

        schedule: {name: one_cycle, warmup: 0.3, momentum: [0.85, 0.95]}
    """

    ends_at_last_step = True

    def __init__(
        self,
        warmup: float = 0.3,
        warmup_start: float = 0.04,
        final: float = 4e-6,
        shape: Literal["cosine", "linear"] = "cosine",
        momentum: list[float] | None = None,
    ) -> None:
        super().__init__(in_range("warmup", warmup, high=1.0, open_low=True, open_high=True), warmup_start)
        self.final = in_range("final", final, high=1.0)
        if shape not in ("cosine", "linear"):
            raise UserError(f"`shape` is cosine or linear, got {shape!r}.")
        self._down = cosine_factor if shape == "cosine" else linear_factor
        if momentum is not None and not (len(momentum) == 2 and 0 <= momentum[0] <= momentum[1] < 1):
            raise UserError(f"`momentum` is the lowest and the highest one, in [0, 1), got {momentum}.")
        self.momentum = momentum

    def rise(self, part: float) -> float:
        """Along the curve that it goes down by."""
        return 1 - self._down(part, 0.0)

    def curve(self, progress: float) -> float:
        """The way down."""
        return self._down(progress, self.final)

    def momentum_at(self, progress: float) -> float | None:
        """The momentum when ``progress`` of training is done; ``None`` where it is the optimizer's."""
        if self.momentum is None:
            return None
        low, high = self.momentum
        progress = min(max(progress, 0.0), 1.0)
        up = progress < self.warmup
        part = progress / self.warmup if up else (progress - self.warmup) / (1 - self.warmup)
        height = 1 - self._down(part, 0.0)  # 0 at the beginning of a way, 1 at its end
        return high - (high - low) * (height if up else 1 - height)
