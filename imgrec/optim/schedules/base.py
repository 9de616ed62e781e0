"""Learning-rate schedules: factors of the base learning rate as functions of the training progress.

All positions are fractions of training, counted in optimizer steps. The shape of a curve therefore does not depend on
the length of training, the batch size, gradient accumulation or the number of devices.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.utils.ranges import (
    ClosedUnitInterval,
    OpenUnitInterval,
    PositiveFloat,
    RightOpenUnitInterval,
    check_ranges,
)

SCHEDULES: Registry[Callable[[float], float]] = Registry("schedule", "schedules", specific=("gamma", "shape"))
"""Schedules by name: callables from the training progress, in [0, 1], to the factor of the base learning rate."""


def cosine_factor(progress: float, final: float = 0.0) -> float:
    """Return half a cosine from 1 down to ``final``.

    >>> [round(cosine_factor(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def linear_factor(progress: float, final: float = 0.0) -> float:
    """Return a straight line from 1 down to ``final``.

    >>> [round(linear_factor(p, 0.2), 6) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.6, 0.2]
    """
    return 1 - (1 - final) * progress


def step_factor(progress: float, milestones: Sequence[float], gamma: float = 0.1) -> float:
    """Return ``gamma`` to the power of the number of reached (sorted) milestones.

    >>> [step_factor(p, [0.5, 0.75], gamma=0.5) for p in (0.0, 0.5, 0.75)]
    [1.0, 0.5, 0.25]
    """
    return float(
        gamma ** bisect.bisect_right(milestones, progress + 1e-9)
    )  # 1e-9: a milestone of 3/10 is at step 3 of 10


def exponential_factor(progress: float, final: float = 0.01) -> float:
    """Return a geometric decay from 1 to ``final``.

    >>> [round(exponential_factor(p, 0.01), 6) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.1, 0.01]
    """
    return float(final**progress)


class Schedule(ABC):
    """Base class of schedules: a curve after a linear warm-up, over the rest of training.

    Args:
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01, so that the first step has an effect.
    """

    ends_at_last_step = False
    """True if the last optimizer step has the final factor. If False, the final factor follows the last step."""

    @check_ranges
    def __init__(self, warmup: RightOpenUnitInterval = 0.0, warmup_start: ClosedUnitInterval = 0.01) -> None:
        self.warmup = float(warmup)
        self.warmup_start = float(warmup_start)

    @abstractmethod
    def curve(self, progress: float) -> float:
        """Return the factor at ``progress`` of the part after the warm-up."""

    def rise(self, part: float) -> float:
        """Return the increase of the factor, from 0 to 1, at the fraction ``part`` of the warm-up."""
        return part

    def factor(self, progress: float) -> float:
        """Return the factor at ``progress`` of training. Values outside [0, 1] are clamped."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return self.warmup_start + (1 - self.warmup_start) * self.rise(progress / self.warmup)
        return self.curve((progress - self.warmup) / (1 - self.warmup))

    __call__ = factor


@SCHEDULES.register("constant")
class Constant(Schedule):
    """Constant learning rate after an optional warm-up.

    Args:
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :class:`Wsd`. Use it instead for a decay at the end of training.

    Source: warm-up: Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677.

    Example::

        schedule: {name: constant, warmup: 0.05}

    >>> [Constant(warmup=0.5, warmup_start=0.2)(p) for p in (0.0, 0.5, 1.0)]
    [0.2, 1.0, 1.0]
    """

    def curve(self, progress: float) -> float:
        """Return 1."""
        return 1.0


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Half a cosine from the base learning rate down to ``final`` (cosine annealing).

    Args:
        final: Factor after the last step, in [0, 1]. Defaults to 0.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :func:`cosine_factor`. Use :class:`Wsd` instead if training may be continued later.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, arXiv:1608.03983;
    here without restarts.

    Example::

        schedule: {name: cosine, warmup: 0.05}

    >>> [round(Cosine()(p), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """

    @check_ranges
    def __init__(
        self,
        final: ClosedUnitInterval = 0.0,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.final = float(final)

    def curve(self, progress: float) -> float:
        """Return :func:`cosine_factor`."""
        return cosine_factor(progress, self.final)


@SCHEDULES.register("linear")
class Linear(Schedule):
    """Straight line from the base learning rate down to ``final``. With a warm-up it is a triangle.

    Args:
        final: Factor after the last step, in [0, 1]. Defaults to 0.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :func:`linear_factor`. Use :class:`Cosine` instead for a slower decay at the start and at the end.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv:1506.01186 (the triangle); Defazio
    et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement, 2023, arXiv:2310.07831 (the line).

    Example::

        schedule: {name: linear, warmup: 0.2}

    >>> [Linear()(p) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.0]
    """

    @check_ranges
    def __init__(
        self,
        final: ClosedUnitInterval = 0.0,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.final = float(final)

    def curve(self, progress: float) -> float:
        """Return :func:`linear_factor`."""
        return linear_factor(progress, self.final)


@SCHEDULES.register("step")
class Step(Schedule):
    """Multiplication of the learning rate by ``gamma`` at each milestone, or at regular intervals.

    Args:
        milestones: Fractions of the part after the warm-up, in (0, 1). Defaults to 0.5 and 0.75.
        every: Distance between milestones, in (0, 1), instead of a list.
        gamma: Factor at each milestone, above 0. Defaults to 0.1.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :func:`step_factor`. Use :class:`Cosine` instead if the milestones are unknown.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv:1512.03385.

    Example::

        schedule: {name: step, every: 0.3, gamma: 0.1}

    >>> [Step(every=0.5, gamma=0.5)(p) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.5, 0.5]
    """

    @check_ranges
    def __init__(
        self,
        milestones: list[OpenUnitInterval] | None = None,
        every: OpenUnitInterval | None = None,
        gamma: PositiveFloat = 0.1,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        if every is not None:
            if milestones is not None:
                raise UserError("every: expected `milestones` or `every`, got both.")
            milestones = [every * i for i in range(1, math.ceil(1 / every - 1e-9))]
        self.milestones = sorted(float(each) for each in (milestones if milestones is not None else [0.5, 0.75]))
        self.gamma = float(gamma)

    def curve(self, progress: float) -> float:
        """Return :func:`step_factor`."""
        return step_factor(progress, self.milestones, self.gamma)


@SCHEDULES.register("exponential")
class Exponential(Schedule):
    """Geometric decay from the base learning rate to ``final``.

    Args:
        final: Factor after the last step, above 0. Defaults to 0.01.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :func:`exponential_factor`. Use :class:`Cosine` instead for a decay that reaches 0.

    Source: Li and Arora, An Exponential Learning Rate Schedule for Deep Learning, 2020, arXiv:1910.07454.

    Example::

        schedule: {name: exponential, final: 0.01}

    >>> [round(Exponential()(p), 6) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.1, 0.01]
    """

    @check_ranges
    def __init__(
        self,
        final: PositiveFloat = 0.01,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.final = float(final)

    def curve(self, progress: float) -> float:
        """Return :func:`exponential_factor`."""
        return exponential_factor(progress, self.final)
