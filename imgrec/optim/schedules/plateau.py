"""Reduction of the learning rate when a validation metric stops improving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from imgrec.errors import UserError, suggestion
from imgrec.losses.base import one_of
from imgrec.metrics.names import mode_of
from imgrec.optim.schedules.base import SCHEDULES, Schedule
from imgrec.utils.ranges import (
    ClosedUnitInterval,
    NonNegativeFloat,
    NonNegativeInt,
    OpenUnitInterval,
    RightOpenUnitInterval,
    check_ranges,
)


@dataclass
class PlateauDetector:
    """State of the plateau detection.

    Args:
        best: Best value, or ``None`` before the first.
        waited: Number of consecutive validations without an improvement.
        resting: Remaining validations of the cooldown.
        scale: Current factor of the learning rate.
    """

    best: float | None = None
    waited: int = 0
    resting: int = 0
    scale: float = 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return asdict(self)


@SCHEDULES.register("plateau")
class Plateau(Schedule):
    """Multiplication of the learning rate by ``gamma`` when a validation metric stops improving.

    Until the first plateau, it is the base learning rate. Validations during the warm-up are not counted. The state of
    the detection is saved in every checkpoint.

    Args:
        monitor: Metric of validation. Defaults to ``val/loss``.
        mode: ``min`` or ``max``. Defaults to the direction of the metric, ``higher_is_better``.
        patience: Number of consecutive validations without an improvement before a reduction, at least 0. Defaults to
            5.
        gamma: Factor of each reduction, in (0, 1). Defaults to 0.1.
        min_delta: Minimum improvement relative to the best value, at least 0. Defaults to 1e-4.
        cooldown: Number of validations after a reduction that are not counted, at least 0. Defaults to 0.
        final: Lower bound of the factor, in [0, 1]. Defaults to 0.
        warmup: Fraction of training over which the factor increases linearly to 1, in [0, 1). Defaults to 0.
        warmup_start: Factor of the first step, in [0, 1]. Defaults to 0.01.

    See Also:
        :class:`Cosine`. Use it instead if the length of training is fixed.

    Source: ``torch.optim.lr_scheduler.ReduceLROnPlateau``, whose rule it is; the practice: LeCun et al., Efficient
    BackProp, 1998, doi:10.1007/3-540-49430-8_2, section 4.7.

    Example::

        schedule: {name: plateau, monitor: val/acc, patience: 3, gamma: 0.2}

    >>> Plateau(monitor="val/acc").mode
    'max'
    """

    @check_ranges
    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        patience: NonNegativeInt = 5,
        gamma: OpenUnitInterval = 0.1,
        min_delta: NonNegativeFloat = 1e-4,
        cooldown: NonNegativeInt = 0,
        final: ClosedUnitInterval = 0.0,
        warmup: RightOpenUnitInterval = 0.0,
        warmup_start: ClosedUnitInterval = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        if not monitor.startswith("val/"):
            raise UserError(f'monitor: expected a metric of validation, for example val/acc, got "{monitor}".')
        if mode is not None:
            one_of("mode", mode, ("min", "max"))
        self.monitor = monitor
        self.mode = mode or mode_of(monitor)
        self._is_mode_given = mode is not None
        self.patience = patience
        self.gamma = float(gamma)
        self.min_delta = float(min_delta)
        self.cooldown = cooldown
        self.final = float(final)

    def curve(self, progress: float) -> float:
        """Return 1. The detection scales the learning rate."""
        return 1.0

    def set_directions(self, directions: Mapping[str, bool]) -> None:
        """Use ``higher_is_better`` of the metrics of a task, by name, if ``mode`` was not given."""
        if not self._is_mode_given:
            self.mode = mode_of(self.monitor, directions)

    def value_in(self, figures: Mapping[str, float]) -> float:
        """Return the monitored metric of a validation.

        Raises:
            UserError: If the metric is missing. The message suggests a similar name.
        """
        if self.monitor not in figures:
            raise UserError(
                f'model.schedule.monitor: validation has no "{self.monitor}".{suggestion(self.monitor, figures)} '
                f"Accepted: {', '.join(figures)}."
            )
        return float(figures[self.monitor])

    def update(self, detector: PlateauDetector, value: float) -> None:
        """Update the detection with the metric of a validation. NaN is no improvement."""
        if detector.best is None or self._is_better(value, detector.best):
            detector.best, detector.waited = (None if math.isnan(value) else value), 0
        else:
            detector.waited += 1
        if detector.resting > 0:
            detector.resting, detector.waited = detector.resting - 1, 0
        if detector.waited > self.patience:
            detector.scale = max(detector.scale * self.gamma, min(self.final, detector.scale))
            detector.resting, detector.waited = self.cooldown, 0

    def _is_better(self, value: float, best: float) -> bool:
        if self.mode == "min":
            return value < best - abs(best) * self.min_delta
        return value > best + abs(best) * self.min_delta
