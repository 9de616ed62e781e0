"""The registry of losses, and what every loss needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.registry import Registry

LOSSES: Registry[nn.Module] = Registry("loss", "losses")
"""Losses by name: modules whose ``forward(logits, targets)`` gives a scalar.

Shapes: logits ``(batch, num_classes)``; targets int64 class indices ``(batch,)`` or float class probabilities
``(batch, num_classes)``. On one-hot probabilities a registered loss gives what it gives on the indices.
"""


def full_precision(logits: Tensor) -> Tensor:
    """The logits in float32 where they came in half precision, as they do under autocast; else as they are.

    A logarithm of a sum of exponentials in bfloat16 keeps two or three digits, too few for a loss.
    """
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def in_range(
    name: str,
    value: float,
    low: float = 0.0,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> float:
    """``value`` as a float where it is finite and lies in the range; else a UserError that names the range.

    Args:
        name: what the number is, for the message.
        value: the number.
        low: the lower end.
        high: the upper end.
        open_low: the lower end itself is refused.
        open_high: the upper end itself is refused.

    >>> in_range("gamma", 2)
    2.0
    >>> in_range("dropout", 1.0, high=1.0, open_high=True)
    Traceback (most recent call last):
        ...
    imgrec.errors.UserError: `dropout` must be at least 0 and below 1, got 1.0.
    """
    number = float(value)
    on_open_end = (open_low and number == low) or (open_high and number == high)
    if math.isfinite(number) and low <= number <= high and not on_open_end:
        return number
    limits = [f"{'above' if open_low else 'at least'} {low:g}"] if math.isfinite(low) else []
    limits += [f"{'below' if open_high else 'at most'} {high:g}"] if math.isfinite(high) else []
    raise UserError(f"`{name}` must be {' and '.join(limits) or 'a finite number'}, got {value!r}.")
