"""Exponential moving averages of tensors: the mathematics behind the averaged weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ema_decay(updates: int, decay: float, warmup: bool = True) -> float:
    """The decay of the next update, when there were ``updates`` before it.

    With ``warmup`` it is ``min(decay, (1 + updates) / (10 + updates))``: the average of a short run is not one of its
    first steps.

    >>> ema_decay(0, 0.999), ema_decay(90, 0.999), ema_decay(10**5, 0.999)
    (0.1, 0.91, 0.999)

    Source: TensorFlow, ``tf.train.ExponentialMovingAverage``, the argument ``num_updates``.
    """
    return min(decay, (1 + updates) / (10 + updates)) if warmup else decay


@torch.no_grad()
def ema_update_(averages: Sequence[Tensor], values: Sequence[Tensor], decay: float) -> None:
    """``average = decay * average + (1 - decay) * value``, in place; what is no floating point is copied.

    Averages may be of a wider type than their values: an average in bfloat16 would stand still.
    """
    wide, given = [], []
    for average, value in zip(averages, values, strict=True):
        if average.is_floating_point() or average.is_complex():
            wide.append(average)
            given.append(value.detach().to(average.dtype))
        else:
            average.copy_(value)
    if wide:
        torch._foreach_lerp_(wide, given, 1 - decay)


def wide_copy(value: Tensor) -> Tensor:
    """A copy to keep an average in: float32 where ``value`` is of a half precision."""
    half = value.dtype in (torch.float16, torch.bfloat16)
    return value.detach().to(torch.float32 if half else value.dtype, copy=True)
