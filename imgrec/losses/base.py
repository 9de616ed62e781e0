"""Registry of losses, and functions that every loss uses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.registry import Registry

LOSSES: Registry[nn.Module] = Registry("loss", "losses", specific=("alpha", "beta", "gamma", "kind", "margin"))
"""Losses by name: modules whose ``forward(logits, targets)`` returns a scalar.

Shapes: logits ``(batch, num_classes)``. Targets int64 class indices ``(batch,)`` or float class probabilities
``(batch, num_classes)``. A registered loss returns the same value for class indices and for one-hot probabilities.
"""


def full_precision(logits: Tensor) -> Tensor:
    """Return half-precision logits, as under autocast, in float32, and other logits unchanged.

    In bfloat16 a logarithm of a sum of exponentials has two or three digits, too few for a loss.
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
    """Return ``value`` as a float if it is finite and in the range.

    Use it for values in mappings and lists. Arguments have a range type instead, see :mod:`imgrec.utils.ranges`.

    Args:
        name: Name of the number in the message.
        value: Number.
        low: Lower bound. Defaults to 0.
        high: Upper bound. Defaults to no bound.
        open_low: ``True`` excludes the lower bound. Defaults to ``False``.
        open_high: ``True`` excludes the upper bound. Defaults to ``False``.

    Raises:
        UserError: If the number is out of range.

    >>> in_range("gamma", 2)
    2.0
    >>> in_range("dropout", 1.0, high=1.0, open_high=True)
    Traceback (most recent call last):
        ...
    imgrec.errors.UserError: dropout: expected a number in [0, 1), got 1.0.
    """
    number = float(value)
    on_open_end = (open_low and number == low) or (open_high and number == high)
    if math.isfinite(number) and low <= number <= high and not on_open_end:
        return number
    if math.isfinite(high):
        span = f" in {'(' if open_low else '['}{low:g}, {high:g}{')' if open_high else ']'}"
    else:
        span = f" {'>' if open_low else '>='} {low:g}"
    raise UserError(f"{name}: expected a number{span}, got {value!r}.")


def as_probabilities(targets: Tensor, like: Tensor) -> Tensor:
    """Return the targets as class probabilities in the dtype of ``like``. Indices become one-hot.

    Shapes: int64 ``(batch,)`` or float ``(batch, num_classes)``. ``like`` and the result are ``(batch, num_classes)``.
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
    """Return the weighted mean over a batch of the class losses, weighted by the class shares of each image.

    Let ``w`` be the class weights, ``p`` the shares, ``l`` the class losses, ``e`` the smoothing and ``K`` the number
    of classes. The loss is ``sum_y p_y w_y ((1 - e) l_y + e / K sum_j l_j)``, summed over the images and divided by the
    sum of ``p_y w_y``. The weight of the label thus multiplies the whole smoothed target.
    ``torch.nn.functional.cross_entropy`` multiplies the smoothed part by the weight of each other class, which moves
    the minimum to the classes of large weights (pytorch#104776). Here the minimizer of cross-entropy is ``(1 - e) r + e
    / K`` with ``r_y ~ w_y p(y | x)``, so that its largest class is that of ``w_y p(y | x)`` for any smoothing.

    Args:
        class_losses: Float ``(batch, num_classes)``, the loss of each image for each class as its label.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1). Defaults to 0.

    Returns:
        Scalar.
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
    """Return the mean of the losses of the images, each weighted by the mean weight of its classes.

    Use it for losses on mixed images that are not the mixture of the losses on their classes. An image without a class,
    which multi-label targets may contain, has the weight 1.

    Args:
        image_losses: Float ``(batch,)``.
        targets: Int64 indices ``(batch,)`` or float shares ``(batch, num_classes)``.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Returns:
        Scalar.
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
    """Return ``value`` if it is one of the accepted words.

    Raises:
        UserError: If it is another word.

    >>> one_of("kind", "sof", ("soft", "hard"))
    Traceback (most recent call last):
        ...
    imgrec.errors.UserError: kind: expected soft or hard, got "sof". Did you mean "soft"?
    """
    if value in accepted:
        return value
    raise UserError(f'{name}: expected {" or ".join(accepted)}, got "{value}".{suggestion(value, accepted)}')
