"""A schedule at work: the torch scheduler that follows its curve, one optimizer step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imgrec.errors import SpecError, UserError
from imgrec.optim.schedules.base import SCHEDULES, Constant
from imgrec.optim.schedules.plateau import Plateau, Standstill
from imgrec.registry import Spec


class FollowedSchedule(LambdaLR):
    """The scheduler that multiplies every group's learning rate by a schedule's factor.

    Its state is a few numbers and no curve: a resumed run follows the curve of its config, at the step where it
    stopped. A schedule with ``momentum_at(progress)`` sets the momentum, too, or the first of ``betas``.

    Args:
        optimizer: its groups' learning rates are the base rates.
        schedule: takes the progress of training, in [0, 1], and gives the factor.
        total_steps: the optimizer steps of the whole training.

    Raises:
        UserError: the schedule moves the momentum, and the optimizer has none.
    """

    def __init__(self, optimizer: Optimizer, schedule: Callable[[float], float], total_steps: int | float) -> None:
        self._schedule = schedule
        self._total = total_steps
        self._standstill = Standstill()
        self._momentum: Callable[[float], float | None] = getattr(schedule, "momentum_at", lambda progress: None)
        if self._momentum(0.0) is not None:
            for group in optimizer.param_groups:
                if "betas" not in group and not group.get("momentum"):
                    raise UserError(f"`momentum`: {type(optimizer).__name__} trains without momentum.")
        super().__init__(optimizer, self._factor)

    def _progress(self, step: int) -> float:
        endless = not math.isfinite(self._total) or self._total <= 0
        intervals = self._total - 1 if getattr(self._schedule, "ends_at_last_step", False) else self._total
        return 0.0 if endless else min(step / max(intervals, 1), 1.0)

    def _factor(self, step: int) -> float:
        return self._schedule(self._progress(step)) * self._standstill.scale

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next optimizer step."""
        super().step(epoch)
        momentum = self._momentum(self._progress(self.last_epoch))
        if momentum is not None:
            for group in self.optimizer.param_groups:
                if "betas" in group:
                    group["betas"] = (momentum, *group["betas"][1:])
                else:
                    group["momentum"] = momentum

    def observe(self, figures: Mapping[str, float]) -> None:
        """Take in the metrics of a validation, where the schedule waits for one; the next step has the new rate.

        Raises:
            UserError: the metric is none of them.
        """
        if not isinstance(self._schedule, Plateau):
            return
        value = self._schedule.value_in(figures)
        if self._progress(self.last_epoch) < self._schedule.warmup:
            return
        self._schedule.look(self._standstill, value)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * self._factor(self.last_epoch)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def check(self, figures: Mapping[str, float]) -> None:
        """Raise what :meth:`observe` would raise."""
        if isinstance(self._schedule, Plateau):
            self._schedule.value_in(figures)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands."""
        state = super().state_dict()
        for own in ("_schedule", "_total", "_standstill", "_momentum"):
            del state[own]
        return {**state, "lr_lambdas": [None] * len(self.lr_lambdas), "standstill": self._standstill.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        state = dict(state_dict)
        self._standstill = Standstill(**state.pop("standstill", {}))
        super().load_state_dict(state)


def build_schedule(
    spec: Spec, optimizer: Optimizer, total_steps: int | float, where: str = "model.schedule"
) -> FollowedSchedule:
    """The scheduler that multiplies every group's learning rate by the schedule's factor.

    Optimizer step ``i`` of ``total_steps``, counted from 0, runs with ``factor(i / total_steps)``; after the last step
    the factor stays what it is at 1. A schedule with ``ends_at_last_step`` has ``factor(i / (total_steps - 1))``.
    Step it once after every optimizer step (Lightning: ``interval: step``).

    Args:
        spec: a schedule's name, or a mapping with its arguments.
        optimizer: its groups' learning rates are the base rates.
        total_steps: the optimizer steps of the whole training. Infinite for a ``constant`` or a ``plateau`` without
            warm-up only.
        where: the place in the config, for messages.

    Raises:
        SpecError: an unknown name or argument, or a value that is refused.
        UserError: the length of training is not known.

    >>> import torch
    >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=0.1)
    >>> build_schedule({"name": "constant", "warmup": 0.5, "warmup_start": 0.5}, optimizer, 10).get_last_lr()
    [0.05]
    """
    schedule = SCHEDULES.build(spec, where)
    if not callable(schedule):
        raise SpecError(f"{where}: {spec!r} gives a {type(schedule).__name__}, not a callable.")
    endless = not math.isfinite(total_steps) or total_steps <= 0
    if endless and not (isinstance(schedule, Constant | Plateau) and not schedule.warmup):
        raise UserError(
            f"{where}: a schedule needs to know how long training is: give trainer.max_epochs or trainer.max_steps, "
            "or take the schedule `constant` without warm-up."
        )
    try:
        return FollowedSchedule(optimizer, schedule, total_steps)
    except UserError as error:
        raise SpecError(f"{where}: {error}") from error


def check_schedule(spec: Spec, where: str = "model.schedule") -> None:
    """Raise what :func:`build_schedule` would raise for the spec: a schedule is cheap, so it is built."""
    SCHEDULES.check(spec, where)
    SCHEDULES.build(spec, where)
