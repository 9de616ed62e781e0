"""What is known of a training that failed: failure.json, and the message."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FAILURE = "failure.json"
_NAMED = 5
"""Images that the message names; failure.json names them all."""


@dataclass
class Failure:
    """What failure.json holds: what went wrong, where training stood, counted from 0, and where it began.

    ``kind``: ``loss`` (NaN or infinite), ``gradient``, ``weights``, or ``divergence``. ``module`` is the first whose
    output was bad, ``parameter`` the first, seen from the loss, whose gradient was. ``images`` are those of the batch
    whose values were bad in that output, or all of the batch; ``repeated`` is true where the step was done again and
    failed again.
    """

    kind: str
    epoch: int
    batch: int
    step: int
    process: int
    loss: float | None
    median_loss: float | None
    learning_rate: float | None
    module: str | None = None
    module_type: str | None = None
    parameter: str | None = None
    bad_parameters: int = 0
    repeated: bool = False
    images: tuple[str, ...] = ()
    last_good: str | None = None
    last_good_step: int | None = None


def of_all(processes: int, failure: Failure) -> Failure:
    """The failure that a process found itself, where the others only heard of it."""
    if processes == 1:
        return failure
    each: list[Any] = [None] * processes
    torch.distributed.all_gather_object(each, failure)
    named = (f for f in each if f.module is not None or (f.loss is not None and not math.isfinite(f.loss)))
    chosen: Failure = next(named, each[0])
    chosen.last_good, chosen.last_good_step = each[0].last_good, each[0].last_good_step
    return chosen


def message(failure: Failure, folder: Path | None) -> str:
    """What failed, where it began and where more is said, in a few lines."""
    where = f"at step {failure.step} (epoch {failure.epoch + 1}, batch {failure.batch + 1})"
    if failure.kind == "divergence":
        what = f"the loss diverges: {failure.loss:.4g} {where}, its median before was {failure.median_loss:.4g}"
    elif failure.kind == "loss":
        what = f"the loss is {failure.loss} {where}"
    else:
        what = f"the {failure.kind} of {failure.parameter or 'a parameter'} is not finite {where}"
        if failure.bad_parameters > 1:
            what += f", as that of {failure.bad_parameters - 1} more"
    said = [what]
    if failure.module == "images":
        said.append("the images themselves hold values that are not finite")
    elif failure.module is not None:
        said.append(f"the first output that is not finite is that of {failure.module} ({failure.module_type})")
    elif failure.kind == "loss":
        said.append(
            "every layer's output is finite, so it is the computation of the loss"
            if failure.repeated
            else "where it began could not be found by doing the steps again"
        )
    if failure.images:
        more = len(failure.images) - _NAMED
        named = ", ".join(failure.images[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        said.append(f"images: {named}")
    if folder is not None:
        said.append(f"details: {folder / FAILURE}")
        if failure.last_good is not None:
            said.append(f"the state before step {failure.last_good_step}: {folder / failure.last_good}")
    return "training failed: " + ".\n  ".join(part[0].upper() + part[1:] if i else part for i, part in enumerate(said))
