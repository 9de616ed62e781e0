"""Learning-rate scheduler of torch that applies a schedule per optimizer step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imgrec.errors import SpecError, UserError
from imgrec.optim.schedules.base import SCHEDULES, Constant
from imgrec.optim.schedules.plateau import Plateau, PlateauDetector
from imgrec.registry import Spec


class FollowedSchedule(LambdaLR):
    """Scheduler that multiplies the learning rate of every group by the factor of a schedule.

    The state contains numbers and no curve: a resumed run uses the curve of its config, at the step of the checkpoint.
    A schedule with ``momentum_at(progress)`` also sets the momentum, or the first of ``betas``.

    Args:
        optimizer: Optimizer. The learning rates of its groups are the base rates.
        schedule: Function from the training progress, in [0, 1], to the factor.
        total_steps: Number of optimizer steps of the whole training.

    Raises:
        UserError: If the schedule sets the momentum, and the optimizer has none.
    """

    def __init__(self, optimizer: Optimizer, schedule: Callable[[float], float], total_steps: int | float) -> None:
        self._schedule = schedule
        self._total = total_steps
        self._standstill = PlateauDetector()
        self._momentum: Callable[[float], float | None] = getattr(schedule, "momentum_at", lambda progress: None)
        if self._momentum(0.0) is not None:
            for group in optimizer.param_groups:
                if "betas" not in group and not group.get("momentum"):
                    raise UserError(f"momentum: expected an optimizer with momentum, got {type(optimizer).__name__}.")
        super().__init__(optimizer, self._factor)

    def _progress(self, step: int) -> float:
        endless = not math.isfinite(self._total) or self._total <= 0
        intervals = self._total - 1 if getattr(self._schedule, "ends_at_last_step", False) else self._total
        return 0.0 if endless else min(step / max(intervals, 1), 1.0)

    def _factor(self, step: int) -> float:
        return self._schedule(self._progress(step)) * self._standstill.scale

    def step(self, epoch: int | None = None) -> None:
        """Set the learning rates of the next optimizer step."""
        super().step(epoch)
        momentum = self._momentum(self._progress(self.last_epoch))
        if momentum is not None:
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum

    def observe(self, figures: Mapping[str, float]) -> None:
        """Update a plateau schedule with the metrics of a validation. The next step uses the new learning rate.

        Raises:
            UserError: If the monitored metric is missing.
        """
        if not isinstance(self._schedule, Plateau):
            return
        value = self._schedule.value_in(figures)
        if self._progress(self.last_epoch) < self._schedule.warmup:
            return
        self._schedule.update(self._standstill, value)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self._factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def set_directions(self, directions: Mapping[str, bool]) -> None:
        """Use ``higher_is_better`` of the metrics of a task, by name, if the schedule reads a metric."""
        if isinstance(self._schedule, Plateau):
            self._schedule.set_directions(directions)

    def check(self, figures: Mapping[str, float]) -> None:
        """Raise the errors of :meth:`observe`."""
        if isinstance(self._schedule, Plateau):
            self._schedule.value_in(figures)

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the schedule."""
        state = super().state_dict()
        for name in ("_schedule", "_total", "_standstill", "_momentum"):
            del state[name]
        return {**state, "lr_lambdas": [None] * len(self.lr_lambdas), "standstill": self._standstill.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        state = dict(state_dict)
        self._standstill = PlateauDetector(**state.pop("standstill", {}))
        super().load_state_dict(state)


def build_schedule(
    spec: Spec, optimizer: Optimizer, total_steps: int | float, where: str = "model.schedule"
) -> FollowedSchedule:
    """Build the scheduler that multiplies the learning rate of every group by the factor of a schedule.

    Optimizer step ``i`` of ``total_steps``, counted from 0, uses ``factor(i / total_steps)``. After the last step the
    factor is the one at 1. A schedule with ``ends_at_last_step`` uses ``factor(i / (total_steps - 1))``. Call
    ``step()`` once after every optimizer step (Lightning: ``interval: step``).

    Args:
        spec: Name of a schedule, or a mapping with its arguments.
        optimizer: Optimizer. The learning rates of its groups are the base rates.
        total_steps: Number of optimizer steps of the whole training. It may be infinite only for a ``constant`` or a
            ``plateau`` schedule without warm-up.
        where: Key in the config for messages.

    Raises:
        SpecError: If a name or an argument is unknown, or if a value is invalid.
        UserError: If the length of training is unknown.

    >>> import torch
    >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    >>> build_schedule({"name": "constant", "warmup": 0.5, "warmup_start": 0.5}, optimizer, 10).get_last_lr()
    [0.05]
    """
    schedule = SCHEDULES.build(spec, where)
    if not callable(schedule):
        raise SpecError(f"{where}: expected a callable, got a {type(schedule).__name__} from {spec!r}.")
    endless = not math.isfinite(total_steps) or total_steps <= 0
    if endless and not (isinstance(schedule, Constant | Plateau) and not schedule.warmup):
        raise UserError(
            f"{where}: a schedule requires the length of training. Set trainer.max_epochs or trainer.max_steps, or use "
            "the schedule `constant` without warm-up."
        )
    try:
        return FollowedSchedule(optimizer, schedule, total_steps)
    except UserError as error:
        raise SpecError(f"{where}: {error}") from error


def check_schedule(spec: Spec, where: str = "model.schedule") -> None:
    """Raise the errors of :func:`build_schedule` for the spec. The schedule is built, which takes little time."""
    SCHEDULES.check(spec, where)
    SCHEDULES.build(spec, where)
