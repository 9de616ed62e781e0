"""The learning rate that goes down when validation no longer improves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from imgrec.errors import UserError, suggestion
from imgrec.losses.base import in_range
from imgrec.optim.schedules.base import SCHEDULES, Schedule

_SMALL_IS_GOOD = ("loss", "nll", "ece", "error")


@dataclass
class Standstill:
    """How long a metric has not improved, and what the learning rate is multiplied by since.

    Args:
        best: the best value so far.
        waited: how many validations in a row brought no better one.
        resting: how many more validations are not counted.
        scale: the factor.
    """

    best: float | None = None
    waited: int = 0
    resting: int = 0
    scale: float = 1.0

    def state_dict(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


@SCHEDULES.register("plateau")
class Plateau(Schedule):
    """The learning rate is multiplied by ``gamma`` when a metric of validation stands still.

    How it will go is not known beforehand: until the first standstill, it is the base learning rate. What validation
    says during the warm-up is not counted. How long it has stood still is in every checkpoint.

    Args:
        monitor: a metric of validation.
        mode: whether less or more is better; by default ``min`` for a loss or a calibration error, else ``max``.
        patience: how many validations in a row may bring no improvement; at the next one, the learning rate goes down.
        gamma: the factor of each reduction, above 0 and below 1.
        min_delta: what counts as an improvement, as a part of the best value so far.
        cooldown: how many validations after a reduction are not counted.
        final: the factor goes no lower, in [0, 1].
        warmup: the part of training, in [0, 1), over which the factor grows linearly to 1.
        warmup_start: the factor of the very first step.

    Source: ``torch.optim.lr_scheduler.ReduceLROnPlateau``, whose rule it is; the practice: LeCun et al., Efficient
    BackProp, 1998, doi:10.1007/3-540-49430-8_2, section 4.7.

    Example::

        schedule: {name: plateau, monitor: val/acc, patience: 3, gamma: 0.2}
    """

    def __init__(
        self,
        monitor: str = "val/loss",
        mode: Literal["min", "max"] | None = None,
        patience: int = 5,
        gamma: float = 0.1,
        min_delta: float = 1e-4,
        cooldown: int = 0,
        final: float = 0.0,
        warmup: float = 0.0,
        warmup_start: float = 0.01,
    ) -> None:
        super().__init__(warmup, warmup_start)
        if not monitor.startswith("val/"):
            raise UserError(f'`monitor` is a metric of validation, such as val/acc, got "{monitor}".')
        if mode not in (None, "min", "max"):
            raise UserError(f'`mode` is min or max, got "{mode}".')
        for name, value in {"patience": patience, "cooldown": cooldown}.items():
            if value < 0:
                raise UserError(f"`{name}` is 0 validations or more, got {value}.")
        self.monitor = monitor
        self.mode = mode or ("min" if monitor.removeprefix("val/") in _SMALL_IS_GOOD else "max")
        self.patience = patience
        self.gamma = in_range("gamma", gamma, high=1.0, open_low=True, open_high=True)
        self.min_delta = in_range("min_delta", min_delta)
        self.cooldown = cooldown
        self.final = in_range("final", final, high=1.0)

    def curve(self, progress: float) -> float:
        """1, as long as the metric improves."""
        return 1.0

    def value_in(self, figures: Mapping[str, float]) -> float:
        """The metric among those of a validation.

        Raises:
            UserError: it is none of them; the message names the nearest.
        """
        if self.monitor not in figures:
            raise UserError(
                f'model.schedule.monitor: validation has no "{self.monitor}".{suggestion(self.monitor, figures)} '
                f"Accepted: {', '.join(figures)}."
            )
        return float(figures[self.monitor])

    def look(self, seen: Standstill, value: float) -> None:
        """Take in what a validation gave; NaN is no improvement."""
        if seen.best is None or self._better(value, seen.best):
            seen.best, seen.waited = (None if math.isnan(value) else value), 0
        else:
            seen.waited += 1
        if seen.resting > 0:
            seen.resting, seen.waited = seen.resting - 1, 0
        if seen.waited > self.patience:
            seen.scale = max(seen.scale * self.gamma, min(self.final, seen.scale))
            seen.resting, seen.waited = self.cooldown, 0

    def _better(self, value: float, best: float) -> bool:
        if self.mode == "min":
            return value < best - abs(best) * self.min_delta
        return value > best + abs(best) * self.min_delta
