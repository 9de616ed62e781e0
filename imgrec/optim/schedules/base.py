"""Learning-rate schedules: what the base learning rate is multiplied by, as a function of training's progress.

Everything is a fraction of training, counted in optimizer steps, so that a longer run, another batch size, gradient
accumulation or more devices change nothing about the shape of the curve.
"""

from __future__ import annotations

import bisect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.registry import Registry

SCHEDULES: Registry[Callable[[float], float]] = Registry("schedule", "schedules", specific=("gamma", "shape"))
"""Schedules by name: callables that take training's progress, in [0, 1], and give the factor of the base rate."""


def cosine_factor(progress: float, final: float = 0.0) -> float:
    """Half a cosine from 1 down to ``final``.

    >>> [round(cosine_factor(p), 3) for p in (0.0, 0.25, 0.5, 1.0)]
    [1.0, 0.854, 0.5, 0.0]
    """
    return final + (1 - final) * (1 + math.cos(math.pi * progress)) / 2


def linear_factor(progress: float, final: float = 0.0) -> float:
    """A straight line from 1 down to ``final``.

    >>> [round(linear_factor(p, 0.2), 6) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.6, 0.2]
    """
    return 1 - (1 - final) * progress


def step_factor(progress: float, milestones: Sequence[float], gamma: float = 0.1) -> float:
    """``gamma`` to the power of the number of (sorted) milestones that are reached.

    >>> [step_factor(p, [0.5, 0.75], gamma=0.5) for p in (0.0, 0.5, 0.75)]
    [1.0, 0.5, 0.25]
    """
    return float(
        gamma ** bisect.bisect_right(milestones, progress + 1e-9)
    )  # 1e-9: a milestone of 3/10 is at step 3 of 10


def exponential_factor(progress: float, final: float = 0.01) -> float:
    """A geometric decline from 1 to ``final``.

    >>> [round(exponential_factor(p, 0.01), 6) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.1, 0.01]
    """
    return float(final**progress)


class Schedule(ABC):
    """A curve after a linear warm-up: the curve runs over the part of training that the warm-up leaves.

    Args:
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step; above 0 by default, so that no step is lost.
    """

    ends_at_last_step = False
    """True if the last optimizer step has the factor of the end; if False, that factor follows the last step."""

    def __init__(self, warmup: float = 0.0, warmup_start: float = 0.01) -> None:
        self.warmup = in_range("warmup", warmup, high=1.0, open_high=True)
        self.warmup_start = in_range("warmup_start", warmup_start, high=1.0)

    @abstractmethod
    def curve(self, progress: float) -> float:
        """The factor when ``progress`` of what follows the warm-up is done."""

    def rise(self, part: float) -> float:
        """How far up the factor is, from 0 to 1, when ``part`` of the warm-up is done."""
        return part

    def factor(self, progress: float) -> float:
        """The factor when ``progress`` of training is done; before 0 and after 1 as at the ends."""
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return self.warmup_start + (1 - self.warmup_start) * self.rise(progress / self.warmup)
        return self.curve((progress - self.warmup) / (1 - self.warmup))

    __call__ = factor


@SCHEDULES.register("constant")
class Constant(Schedule):
    """The base learning rate throughout, after an optional warm-up.

    Args:
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: warm-up: Goyal et al., Accurate, Large Minibatch SGD, 2017, arXiv:1706.02677.

    Example::

        schedule: {name: constant, warmup: 0.05}
    """

    def curve(self, progress: float) -> float:
        """Always 1."""
        return 1.0


@SCHEDULES.register("cosine")
class Cosine(Schedule):
    """Half a cosine from the base learning rate down to nothing, or to a part of it.

    Args:
        final: the factor after the last step, in [0, 1].
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017, arXiv:1608.03983;
    here without restarts.

    Example::

        schedule: {name: cosine, warmup: 0.05}
    """

    def __init__(self, final: float = 0.0, warmup: float = 0.0, warmup_start: float = 0.01) -> None:
        super().__init__(warmup, warmup_start)
        self.final = in_range("final", final, high=1.0)

    def curve(self, progress: float) -> float:
        """See :func:`cosine_factor`."""
        return cosine_factor(progress, self.final)


@SCHEDULES.register("linear")
class Linear(Schedule):
    """A straight line from the base learning rate down to nothing, or to a part of it; a triangle with a warm-up.

    Args:
        final: the factor after the last step, in [0, 1].
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017, arXiv:1506.01186 (the triangle); Defazio
    et al., When, Why and How Much? Adaptive Learning Rate Scheduling by Refinement, 2023, arXiv:2310.07831 (the line).

    Example::

        schedule: {name: linear, warmup: 0.2}
    """

    def __init__(self, final: float = 0.0, warmup: float = 0.0, warmup_start: float = 0.01) -> None:
        super().__init__(warmup, warmup_start)
        self.final = in_range("final", final, high=1.0)

    def curve(self, progress: float) -> float:
        """See :func:`linear_factor`."""
        return linear_factor(progress, self.final)


@SCHEDULES.register("step")
class Step(Schedule):
    """The learning rate is multiplied by ``gamma`` at each milestone, or after every so much of training.

    Args:
        milestones: fractions of what follows the warm-up, in (0, 1); by default a half and three quarters.
        every: the distance between milestones, in (0, 1), in place of a list.
        gamma: the factor at each milestone; above 0.
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv:1512.03385.

    Example::

        schedule: {name: step, every: 0.3, gamma: 0.1}
    """

    def __init__(
        self,
        milestones: list[float] | None = None,
        every: float | None = None,
        gamma: float = 0.1,
        warmup: float = 0.0,
        warmup_start: float = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        if every is not None:
            if milestones is not None:
                raise UserError("give `milestones` or `every`, not both.")
            every = in_range("every", every, high=1.0, open_low=True, open_high=True)
            milestones = [every * i for i in range(1, math.ceil(1 / every - 1e-9))]
        self.milestones = sorted(
            in_range("milestones", m, high=1.0, open_low=True, open_high=True)
            for m in (milestones if milestones is not None else [0.5, 0.75])
        )
        self.gamma = in_range("gamma", gamma, open_low=True)

    def curve(self, progress: float) -> float:
        """See :func:`step_factor`."""
        return step_factor(progress, self.milestones, self.gamma)


@SCHEDULES.register("exponential")
class Exponential(Schedule):
    """A geometric decline from the base learning rate to a part of it.

    Args:
        final: the factor after the last step; above 0.
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: Li and Arora, An Exponential Learning Rate Schedule for Deep Learning, 2020, arXiv:1910.07454.

    Example::

        schedule: {name: exponential, final: 0.01}
    """

    def __init__(self, final: float = 0.01, warmup: float = 0.0, warmup_start: float = 0.01) -> None:
        super().__init__(warmup, warmup_start)
        self.final = in_range("final", final, open_low=True)

    def curve(self, progress: float) -> float:
        """See :func:`exponential_factor`."""
        return exponential_factor(progress, self.final)
