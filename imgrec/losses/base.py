"""The registry of losses, and what every loss needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.registry import Registry

LOSSES: Registry[nn.Module] = Registry("loss", "losses", specific=("alpha", "beta", "gamma", "kind", "margin"))
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


def as_probabilities(targets: Tensor, like: Tensor) -> Tensor:
    """The targets as shares of the classes, in the type of number of ``like``: one-hot where they are indices.

    Shapes: int64 ``(batch,)`` or float ``(batch, num_classes)``; ``like`` and the result ``(batch, num_classes)``.
    """
    if targets.is_floating_point():
        return targets.to(like.dtype)
    return torch.zeros_like(like).scatter_(1, targets[:, None], 1.0)


def smoothed(shares: Tensor, label_smoothing: float) -> Tensor:
    """Return the class shares with the part ``label_smoothing`` spread evenly over all classes."""
    return shares * (1 - label_smoothing) + label_smoothing / shares.shape[1] if label_smoothing else shares


def expected_loss(
    class_losses: Tensor, targets: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the weighted mean over a batch of the class losses; a mixed image has the loss of its shares.

    With class weights ``w``, shares ``p``, class losses ``l``, smoothing ``e`` and ``K`` classes it is
    ``sum_y p_y w_y ((1 - e) l_y + e / K sum_j l_j)``, summed over the images and divided by the sum of ``p_y w_y``. The
    weight of the label thus multiplies the whole smoothed target. ``torch.nn.functional.cross_entropy`` multiplies the
    smoothed part by the weight of each other class, which moves the minimum to the classes of large weights
    (pytorch#104776). Here the minimizer of cross-entropy is ``(1 - e) r + e / K`` with ``r_y ~ w_y p(y | x)``, so that
    its largest class is that of ``w_y p(y | x)`` for any smoothing.

    Args:
        class_losses: float ``(batch, num_classes)``, the loss of each image for each class as its label.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        class_weights: float ``(num_classes,)``.
        label_smoothing: part of each target that is spread evenly over all classes; in [0, 1).

    Returns:
        A scalar.
    """
    shares = as_probabilities(targets, class_losses)
    if class_weights is None:
        return (smoothed(shares, label_smoothing) * class_losses).sum() / len(shares)
    shares = shares * class_weights.to(class_losses)
    spread = shares
    if label_smoothing:
        even = shares.sum(dim=1, keepdim=True) / shares.shape[1]
        spread = (1 - label_smoothing) * shares + label_smoothing * even
    return (spread * class_losses).sum() / shares.sum()


def image_mean(image_losses: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """The mean of what each image loses, in which an image weighs what its classes weigh on average.

    For what is lost on a mixture and is not a mixture of what is lost on its classes. An image without any class, as
    one of several labels may be, weighs 1.

    Args:
        image_losses: float ``(batch,)``.
        targets: int64 indices ``(batch,)`` or float shares ``(batch, num_classes)``.
        class_weights: float ``(num_classes,)``.

    Returns:
        A scalar.
    """
    if class_weights is None:
        return image_losses.mean()
    weights = class_weights.to(image_losses)
    if targets.is_floating_point():
        shares = targets.to(image_losses.dtype)
        whole = shares.sum(1)
        weighed = (shares * weights).sum(1)  # not a matrix product, which autocast would take in half precision
        each = torch.where(whole > 0, weighed / whole.clamp_min(torch.finfo(whole.dtype).tiny), 1.0)
    else:
        each = weights[targets]
    return (each * image_losses).sum() / each.sum()


def one_of(name: str, value: str, accepted: Sequence[str]) -> str:
    """``value`` where it is one of the accepted words; else a UserError that names them.

    >>> one_of("kind", "sof", ("soft", "hard"))
    Traceback (most recent call last):
        ...
    imgrec.errors.UserError: `kind` must be soft or hard, got "sof". Did you mean "soft"?
    """
    if value in accepted:
        return value
    raise UserError(f'`{name}` must be {" or ".join(accepted)}, got "{value}".{suggestion(value, accepted)}')
