"""Cyclic schedules: one cycle, and cosines with warm restarts."""

from __future__ import annotations

import bisect
from typing import Literal

from imgrec.errors import UserError
from imgrec.losses.base import one_of
from imgrec.optim.schedules.base import SCHEDULES, Schedule, cosine_factor, linear_factor
from imgrec.utils.ranges import (
    ClosedUnitInterval,
    LeftOpenUnitInterval,
    OpenUnitInterval,
    PositiveFloat,
    PositiveInt,
    RightOpenUnitInterval,
    check_ranges,
)

_EDGE = 1e-9  # a restart at 10/70 is at step 10 of 70


def cosine_restarts_factor(
    progress: float, cycles: int = 3, growth: float = 2.0, peak: float = 1.0, final: float = 0.0
) -> float:
    """Return a sequence of cosines, each ``growth`` times as long as the previous one.

    Args:
        progress: Progress, in [0, 1].
        cycles: Number of cosines. Defaults to 3.
        growth: Ratio of the lengths of consecutive cosines. Defaults to 2.
        peak: Ratio of the heights of consecutive cosines. Defaults to 1.
        final: Factor at the end of each cosine. Defaults to 0.

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
    """Cosine annealing with warm restarts, with increasing cycle lengths.

    Args:
        cycles: Number of cosines, at least 1. 1 is ``cosine``. Defaults to 3.
        growth: Ratio of the lengths of consecutive cosines, above 0. 1 gives equal lengths. Defaults to 2.
        peak: Ratio of the heights of consecutive cosines, in (0, 1]. Defaults to 1.
        final: Factor at the end of each cosine, in [0, 1]. Defaults to 0.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :func:`cosine_restarts_factor`. Use :class:`Cosine` instead unless models from several cycles are required.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, arXiv:1608.03983.

    Example::

        schedule: {name: cosine_restarts, cycles: 3, growth: 2}

    >>> [round(CosineRestarts(cycles=2, growth=1.0)(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.5, 1.0, 0.0]
    """

    @check_ranges
    def __init__(
        self,
        cycles: PositiveInt = 3,
        growth: PositiveFloat = 2.0,
        peak: LeftOpenUnitInterval = 1.0,
        final: ClosedUnitInterval = 0.0,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.cycles = cycles
        self.growth = float(growth)
        self.peak = float(peak)
        self.final = float(final)

    def curve(self, progress: float) -> float:
        """Return :func:`cosine_restarts_factor`."""
        return cosine_restarts_factor(progress, self.cycles, self.growth, self.peak, self.final)


@SCHEDULES.register("one_cycle")
class OneCycle(Schedule):
    """One-cycle policy: increase from a small fraction of the learning rate, then decay to almost 0.

    The last step has the factor ``final``, as in torch. Other schedules reach their ``final`` after the last step.

    The learning rate of the optimizer is the maximum. With ``momentum: [0.85, 0.95]``, the momentum (for Adam the first
    of ``betas``) is cycled inversely, as in the paper. It decreases from the second value to the first and increases
    again. Otherwise it is the momentum of the optimizer.

    Args:
        warmup: Fraction of training over which the factor increases to 1, in (0, 1). Defaults to 0.3.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.04.
        final: Factor of the last step, in [0, 1]. Defaults to 4e-6.
        shape: Shape of increase and decay, ``cosine`` or ``linear``. Defaults to ``cosine``.
        momentum: Minimum and maximum of the momentum. Defaults to the momentum of the optimizer.

    See Also:
        :class:`Cosine`. Use it instead with a short warm-up for fine-tuning.

    Source: Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2018,
    arXiv:1708.07120; cosines: fastai, whose defaults these are, by way of ``torch.optim.lr_scheduler.OneCycleLR``.

    Example::

        schedule: {name: one_cycle, warmup: 0.3, momentum: [0.85, 0.95]}

    >>> [round(OneCycle()(p), 2) for p in (0.0, 0.3, 1.0)]
    [0.04, 1.0, 0.0]
    """

    ends_at_last_step = True

    @check_ranges
    def __init__(
        self,
        warmup: OpenUnitInterval = 0.3,
        warmup_start: ClosedUnitInterval = 0.04,
        final: ClosedUnitInterval = 4e-6,
        shape: Literal["cosine", "linear"] = "cosine",
        momentum: list[float] | None = None,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.final = float(final)
        one_of("shape", shape, ("cosine", "linear"))
        self._down = cosine_factor if shape == "cosine" else linear_factor
        if momentum is not None and not (len(momentum) == 2 and 0 <= momentum[0] <= momentum[1] < 1):
            raise UserError(f"momentum: expected [min, max] with 0 <= min <= max < 1, got {momentum}.")
        self.momentum = momentum

    def rise(self, part: float) -> float:
        """Return the increase along the shape of the decay."""
        return 1 - self._down(part, 0.0)

    def curve(self, progress: float) -> float:
        """Return the decay."""
        return self._down(progress, self.final)

    def momentum_at(self, progress: float) -> float | None:
        """Return the momentum at ``progress`` of training, or ``None`` for the momentum of the optimizer."""
        if self.momentum is None:
            return None
        low, high = self.momentum
        progress = min(max(progress, 0.0), 1.0)
        up = progress < self.warmup
        part = progress / self.warmup if up else (progress - self.warmup) / (1 - self.warmup)
        height = 1 - self._down(part, 0.0)  # 0 at the start of a phase, 1 at its end
        return high - (high - low) * (height if up else 1 - height)
