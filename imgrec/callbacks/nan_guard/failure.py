"""Description of a failed training: failure.json, and the message."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

FAILURE = "failure.json"
_NAMED = 5
"""Maximum number of images in the message. failure.json contains all."""


@dataclass
class Failure:
    """Content of failure.json: the cause, the position in training, counted from 0, and the first affected layer.

    ``kind`` is ``loss`` (NaN or infinite), ``gradient``, ``weights``, or ``divergence``. ``module`` is the first module
    whose output was not finite. ``parameter`` is the first parameter, from the loss backwards, whose gradient was not
    finite. ``images`` are the affected images of the batch, or all of these. ``repeated`` is true if the step failed
    again when it was repeated.
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


def gather_failure(processes: int, failure: Failure) -> Failure:
    """Return the failure of the process in which it began."""
    if processes == 1:
        return failure
    each: list[Any] = [None] * processes
    torch.distributed.all_gather_object(each, failure)
    named = (f for f in each if f.module is not None or (f.loss is not None and not math.isfinite(f.loss)))
    first: Failure = next(named, each[0])
    first.last_good, first.last_good_step = each[0].last_good, each[0].last_good_step
    return first


def message(failure: Failure, folder: Path | None) -> str:
    """Return the cause, the first affected layer and the paths of the details as a few lines."""
    where = f"at step {failure.step} (epoch {failure.epoch + 1}, batch {failure.batch + 1})"
    if failure.kind == "divergence":
        cause = f"the loss diverges: {failure.loss:.4g} {where}, its median before was {failure.median_loss:.4g}"
    elif failure.kind == "loss":
        cause = f"the loss is {failure.loss} {where}"
    else:
        cause = f"the {failure.kind} of {failure.parameter or 'a parameter'} is not finite {where}"
        if failure.bad_parameters > 1:
            cause += f", as that of {failure.bad_parameters - 1} more"
    lines = [cause]
    if failure.module == "images":
        lines.append("the images contain values that are not finite")
    elif failure.module is not None:
        lines.append(f"the first output that is not finite is that of {failure.module} ({failure.module_type})")
    elif failure.kind == "loss":
        lines.append(
            "the output of every layer is finite, so it is the computation of the loss"
            if failure.repeated
            else "the first affected layer could not be found by repeating the steps"
        )
    if failure.images:
        more = len(failure.images) - _NAMED
        named = ", ".join(failure.images[:_NAMED]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"images: {named}")
    if folder is not None:
        lines.append(f"details: {folder / FAILURE}")
        if failure.last_good is not None:
            lines.append(f"the state before step {failure.last_good_step}: {folder / failure.last_good}")
    return "training failed: " + ".\n  ".join(part[0].upper() + part[1:] if i else part for i, part in enumerate(lines))
