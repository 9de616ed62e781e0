"""Averages of weights, over the steps of a training and over trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def ema_decay(updates: int, decay: float, warmup: bool = True) -> float:
    """Return the decay of the next update after ``updates`` updates.

    With ``warmup`` it is ``min(decay, (1 + updates) / (10 + updates))``, so that the average of a short run does not
    depend mainly on its first steps.

    >>> ema_decay(0, 0.999), ema_decay(90, 0.999), ema_decay(10**5, 0.999)
    (0.1, 0.91, 0.999)

    Source: TensorFlow, ``tf.train.ExponentialMovingAverage``, the argument ``num_updates``.
    """
    return min(decay, (1 + updates) / (10 + updates)) if warmup else decay


@torch.no_grad()
def ema_update_(averages: Sequence[Tensor], values: Sequence[Tensor], decay: float) -> None:
    """Compute ``average = decay * average + (1 - decay) * value`` in place. Integer tensors are copied.

    Averages may have a wider dtype than their values, because the updates of an average in bfloat16 would round to
    zero.
    """
    wide = [a.is_floating_point() or a.is_complex() for a in averages]
    floats = [average for average, w in zip(averages, wide, strict=True) if w]
    if floats:
        new = [value.detach().to(a.dtype) for a, value, w in zip(averages, values, wide, strict=True) if w]
        torch._foreach_lerp_(floats, new, 1 - decay)
    integers = [average for average, w in zip(averages, wide, strict=True) if not w]
    if integers:
        torch._foreach_copy_(integers, [value for value, w in zip(values, wide, strict=True) if not w])


def wide_copy(value: Tensor) -> Tensor:
    """Return a copy for an average: float32 if ``value`` has half precision."""
    half = value.dtype in (torch.float16, torch.bfloat16)
    return value.detach().to(torch.float32 if half else value.dtype, copy=True)


@torch.no_grad()
def mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of state dicts, tensor by tensor. Integer tensors are those of the first state dict.

    Sums use float32 or wider. Each result has the dtype of its tensor.

    Args:
        states: State dicts, at least one, with equal keys, shapes and dtypes.

    Raises:
        ValueError: If there is none, or if they differ. The message names the first tensor that differs.

    Source: Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy
    without increasing inference time", arXiv 2203.05482.

    >>> mean_state([{"w": torch.tensor([1.0, 2.0])}, {"w": torch.tensor([3.0, 6.0])}])
    {'w': tensor([2., 4.])}
    """
    if not states:
        raise ValueError("the mean of no state dicts")
    first = states[0]
    for other in states[1:]:
        if (odd := first.keys() ^ other.keys()) or (odd := {k for k in first if _kind(first[k]) != _kind(other[k])}):
            raise ValueError(f"state dicts that do not belong together: {min(odd)}")
    found = {}
    for name, value in first.items():
        total = wide_copy(value)
        if value.is_floating_point() or value.is_complex():
            for other in states[1:]:
                total += other[name]
            total /= len(states)
        found[name] = total.to(value.dtype)
    return found


def _kind(value: Tensor) -> tuple[torch.Size, torch.dtype]:
    return value.shape, value.dtype
