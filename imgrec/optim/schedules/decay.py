"""Decay schedules: at given milestones, polynomial, and at the end of training."""

from __future__ import annotations

import math
from typing import Literal

from imgrec.losses.base import one_of
from imgrec.optim.schedules.base import SCHEDULES, Schedule, Step, cosine_factor, linear_factor
from imgrec.utils.ranges import (
    ClosedUnitInterval,
    LeftOpenUnitInterval,
    OpenUnitInterval,
    PositiveFloat,
    RightOpenUnitInterval,
    check_ranges,
)

Shape = Literal["linear", "cosine", "sqrt"]


def polynomial_factor(progress: float, power: float = 0.9, final: float = 0.0) -> float:
    """Return the remaining fraction of training to a power, from 1 down to ``final``.

    >>> [round(polynomial_factor(p, power=2.0), 4) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.25, 0.0]
    """
    return float(final + (1 - final) * (1 - progress) ** power)


def sqrt_factor(progress: float, final: float = 0.0) -> float:
    """Return one minus a square root, from 1 down to ``final``, steepest at the start.

    >>> [round(sqrt_factor(p), 3) for p in (0.0, 0.25, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return final + (1 - final) * (1 - math.sqrt(progress))


_SHAPES = {"linear": linear_factor, "cosine": cosine_factor, "sqrt": sqrt_factor}


def wsd_factor(progress: float, decay: float = 0.2, final: float = 0.0, shape: Shape = "sqrt") -> float:
    """Return 1, and a decay to ``final`` over the last fraction ``decay`` of training.

    >>> [round(wsd_factor(p, decay=0.2, shape="linear"), 3) for p in (0.0, 0.8, 0.9, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    down = (progress - (1 - decay)) / decay
    return 1.0 if down <= 0 else _SHAPES[shape](min(down, 1.0), final)


@SCHEDULES.register("multi_step")
class MultiStep(Step):
    """Multiplication of the learning rate by ``gamma`` at each of the given milestones.

    Args:
        milestones: Fractions of the part after the warm-up, in (0, 1). Defaults to 0.5 and 0.75.
        gamma: Factor at each milestone, above 0. Defaults to 0.1.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :class:`Step`. Use it instead for milestones at regular intervals.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv:1512.03385: at a half and three
    quarters of training on CIFAR-10.

    Example::

        schedule: {name: multi_step, milestones: [0.5, 0.75], gamma: 0.1}

    >>> [round(MultiStep([0.5])(p), 3) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.1, 0.1]
    """

    @check_ranges
    def __init__(
        self,
        milestones: list[OpenUnitInterval] | None = None,
        gamma: PositiveFloat = 0.1,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(milestones, None, gamma, warmup, warmup_start)


@SCHEDULES.register("polynomial")
class Polynomial(Schedule):
    """Polynomial decay: the remaining fraction of training to a power, linear for 1.

    Args:
        power: Exponent, above 0. Defaults to 0.9.
        final: Factor after the last step, in [0, 1]. Defaults to 0.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :func:`polynomial_factor`. Use :class:`Linear` instead for the exponent 1.

    Source: Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
    Fully Connected CRFs, 2018, arXiv:1606.00915: the "poly" policy.

    Example::

        schedule: {name: polynomial, power: 0.9}

    >>> [Polynomial(power=2.0)(p) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.25, 0.0]
    """

    @check_ranges
    def __init__(
        self,
        power: PositiveFloat = 0.9,
        final: ClosedUnitInterval = 0.0,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.power = float(power)
        self.final = float(final)

    def curve(self, progress: float) -> float:
        """Return :func:`polynomial_factor`."""
        return polynomial_factor(progress, self.power, self.final)


@SCHEDULES.register("wsd")
class Wsd(Schedule):
    """Warmup-stable-decay (WSD): constant base learning rate, with a decay at the end of training.

    Training can be continued from the stable phase for longer than planned.

    Args:
        decay: Fraction of the part after the warm-up over which the factor decays, in (0, 1]. Defaults to 0.2.
        final: Factor after the last step, in [0, 1]. Defaults to 0.
        shape: Shape of the decay: ``linear``, ``cosine``, or ``sqrt``, which is one minus a square root. Defaults to
            ``sqrt``.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :func:`wsd_factor`. Use :class:`Cosine` instead if the length of training is fixed.

    Source: Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies,
    2024, arXiv:2404.06395; shapes: Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations, 2024, arXiv:2405.18392.

    Example::

        schedule: {name: wsd, warmup: 0.05, decay: 0.2}

    >>> [round(Wsd(shape="linear")(p), 3) for p in (0.0, 0.8, 0.9, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """

    @check_ranges
    def __init__(
        self,
        decay: LeftOpenUnitInterval = 0.2,
        final: ClosedUnitInterval = 0.0,
        shape: Shape = "sqrt",
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.decay = float(decay)
        self.final = float(final)
        one_of("shape", shape, tuple(_SHAPES))
        self.shape: Shape = shape

    def curve(self, progress: float) -> float:
        """Return :func:`wsd_factor`."""
        return wsd_factor(progress, self.decay, self.final, self.shape)
