"""A schedule at work: the torch scheduler that follows its curve, one optimizer step at a time."""

from __future__ import annotations

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from imgrec.errors import SpecError, UserError
from imgrec.optim.schedules import SCHEDULES, Constant
from imgrec.registry import Spec


def build_schedule(
    spec: Spec, optimizer: Optimizer, total_steps: int | float, where: str = "model.schedule"
) -> LambdaLR:
    """The scheduler that multiplies every group's learning rate by the schedule's factor.

    Optimizer step ``i`` of ``total_steps``, counted from 0, runs with ``factor(i / total_steps)``; after the last step
    the factor stays what it is at 1. Step it once after every optimizer step (Lightning: ``interval: step``). Its state
    is a few numbers and no curve: a resumed run follows the curve of its config, at the step where it stopped.

    Args:
        spec: a schedule's name, or a mapping with its arguments.
        optimizer: its groups' learning rates are the base rates.
        total_steps: the optimizer steps of the whole training. Infinite for a ``constant`` without warm-up only.
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
    if endless and not (isinstance(schedule, Constant) and not schedule.warmup):
        raise UserError(
            f"{where}: a schedule needs to know how long training is: give trainer.max_epochs or trainer.max_steps, "
            "or take the schedule `constant` without warm-up."
        )

    def factor(step: int) -> float:
        return schedule(0.0 if endless else min(step / total_steps, 1.0))

    return LambdaLR(optimizer, factor)


def check_schedule(spec: Spec, where: str = "model.schedule") -> None:
    """Raise what :func:`build_schedule` would raise for the spec: a schedule is cheap, so it is built."""
    SCHEDULES.check(spec, where)
    SCHEDULES.build(spec, where)
