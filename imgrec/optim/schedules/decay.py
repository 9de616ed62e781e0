"""More ways down: at given points, along a power, and not before the end."""

from __future__ import annotations

import math
from typing import Literal

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.optim.schedules.base import SCHEDULES, Schedule, Step, cosine_factor, linear_factor

Shape = Literal["linear", "cosine", "sqrt"]


def polynomial_factor(progress: float, power: float = 0.9, final: float = 0.0) -> float:
    """What is left of training, to a power: from 1 down to ``final``.

    >>> [round(polynomial_factor(p, power=2.0), 4) for p in (0.0, 0.5, 1.0)]
    [1.0, 0.25, 0.0]
    """
    return float(final + (1 - final) * (1 - progress) ** power)


def sqrt_factor(progress: float, final: float = 0.0) -> float:
    """One minus a square root, from 1 down to ``final``: steep first.

    >>> [round(sqrt_factor(p), 3) for p in (0.0, 0.25, 1.0)]
    [1.0, 0.5, 0.0]
    """
    return final + (1 - final) * (1 - math.sqrt(progress))


_SHAPES = {"linear": linear_factor, "cosine": cosine_factor, "sqrt": sqrt_factor}


def wsd_factor(progress: float, decay: float = 0.2, final: float = 0.0, shape: Shape = "sqrt") -> float:
    """1, and over the last ``decay`` of training down to ``final``.

    >>> [round(wsd_factor(p, decay=0.2, shape="linear"), 3) for p in (0.0, 0.8, 0.9, 1.0)]
    [1.0, 1.0, 0.5, 0.0]
    """
    down = (progress - (1 - decay)) / decay
    return 1.0 if down <= 0 else _SHAPES[shape](min(down, 1.0), final)


@SCHEDULES.register("multi_step")
class MultiStep(Step):
    """The learning rate is multiplied by ``gamma`` at each of the given points of training.

    Args:
        milestones: fractions of what follows the warm-up, in (0, 1).
        gamma: the factor at each; above 0.
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv:1512.03385: at a half and three
    quarters of training on CIFAR-10.

    Example::

        schedule: {name: multi_step, milestones: [0.5, 0.75], gamma: 0.1}
    """

    def __init__(
        self,
        milestones: list[float] | None = None,
        gamma: float = 0.1,
        warmup: float = 0.0,
        warmup_start: float = 0.01,
    ) -> None:
        super().__init__(milestones, None, gamma, warmup, warmup_start)


@SCHEDULES.register("polynomial")
class Polynomial(Schedule):
    """What is left of training, to a power: a line for 1, later and steeper below it, earlier above it.

    Args:
        power: above 0.
        final: the factor after the last step, in [0, 1].
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: Chen et al., DeepLab: Semantic Image Segmentation with Deep Convolutional Nets, Atrous Convolution, and
    Fully Connected CRFs, 2018, arXiv:1606.00915: the "poly" policy.

    Example::

        schedule: {name: polynomial, power: 0.9}
    """

    def __init__(self, power: float = 0.9, final: float = 0.0, warmup: float = 0.0, warmup_start: float = 0.01) -> None:
        super().__init__(warmup, warmup_start)
        self.power = in_range("power", power, open_low=True)
        self.final = in_range("final", final, high=1.0)

    def curve(self, progress: float) -> float:
        """See :func:`polynomial_factor`."""
        return polynomial_factor(progress, self.power, self.final)


@SCHEDULES.register("wsd")
class Wsd(Schedule):
    """Warm-up, stable, decay: the base learning rate until shortly before the end, and then down.

    What was trained with the base learning rate can be gone on with, for longer than was planned.

    Args:
        decay: the part of what follows the warm-up over which it goes down, above 0 and at most 1.
        final: the factor after the last step, in [0, 1].
        shape: of the way down: ``linear``, ``cosine``, or one minus a square root, ``sqrt``.
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: Hu et al., MiniCPM: Unveiling the Potential of Small Language Models with Scalable Training Strategies,
    2024, arXiv:2404.06395; shapes: Hägele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations, 2024, arXiv:2405.18392.

    Example::

        schedule: {name: wsd, warmup: 0.05, decay: 0.2}
    """

    def __init__(
        self,
        decay: float = 0.2,
        final: float = 0.0,
        shape: Shape = "sqrt",
        warmup: float = 0.0,
        warmup_start: float = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        self.decay = in_range("decay", decay, high=1.0, open_low=True)
        self.final = in_range("final", final, high=1.0)
        if shape not in _SHAPES:
            raise UserError(f"`shape` is one of {', '.join(_SHAPES)}, got {shape!r}.")
        self.shape: Shape = shape

    def curve(self, progress: float) -> float:
        """See :func:`wsd_factor`."""
        return wsd_factor(progress, self.decay, self.final, self.shape)
