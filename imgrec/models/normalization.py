"""The mean and standard deviation by which a classifier normalizes its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imgrec.errors import SpecError, suggestion

Normalize = str | dict[str, list[float]]
"""``auto``, ``imagenet``, ``half``, or ``{mean: [...], std: [...]}``."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_NAMED = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "half": ((0.5,) * 3, (0.5,) * 3)}


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """``values`` for another number of channels: averaged for one, repeated in turn for more.

    >>> for_channels((0.2, 0.4, 0.6), 1), for_channels((0.5,), 3)
    ((0.4,), (0.5, 0.5, 0.5))
    """
    if len(values) == channels:
        return tuple(values)
    if channels == 1:
        return (round(sum(values) / len(values), 12),)
    return tuple(values[i % len(values)] for i in range(channels))


def check_normalize(normalize: Any, where: str = "normalize") -> None:
    """Raise :class:`SpecError` where ``normalize`` is none of the accepted forms; see :func:`resolve_normalize`."""
    accepted = "Accepted: auto, imagenet, half, or a mapping with the lists `mean` and `std`."
    if isinstance(normalize, str):
        words = ("auto", *_NAMED)
        if normalize not in words:
            raise SpecError(f'{where}: "{normalize}" is no normalization.{suggestion(normalize, words)} {accepted}')
        return
    if not isinstance(normalize, Mapping) or set(normalize) != {"mean", "std"}:
        raise SpecError(f"{where}: got {normalize!r}. {accepted}")
    for key in ("mean", "std"):
        values = normalize[key]
        if not isinstance(values, Sequence) or isinstance(values, str) or not all(map(_number, values)) or not values:
            raise SpecError(f"{where}.{key}: expected a list of numbers, one a channel, got {values!r}.")
    if any(value <= 0 for value in normalize["std"]):
        raise SpecError(f"{where}.std: every standard deviation must be above 0, got {list(normalize['std'])}.")


def resolve_normalize(
    normalize: Any,
    backbone_mean: Sequence[float],
    backbone_std: Sequence[float],
    channels: int,
    where: str = "normalize",
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and the standard deviation, one value a channel, in units of [0, 1].

    Args:
        normalize: ``auto`` takes those of the backbone's preprocessing; ``imagenet`` ImageNet's; ``half`` 0.5 and 0.5,
            which brings [0, 1] to [-1, 1]; a mapping gives them.
        backbone_mean: what ``auto`` takes.
        backbone_std: likewise.
        channels: the number of channels of the images.
        where: the place in the config, for messages.

    Raises:
        SpecError: an unknown word, or another number of values than channels.
    """
    check_normalize(normalize, where)
    if isinstance(normalize, str):
        mean, std = _NAMED.get(normalize, (tuple(backbone_mean), tuple(backbone_std)))
        return for_channels(mean, channels), for_channels(std, channels)
    for key in ("mean", "std"):
        if len(normalize[key]) != channels:
            raise SpecError(
                f"{where}.{key}: got {len(normalize[key])} value(s), {list(normalize[key])}, "
                f"but the images have {channels} channel(s)."
            )
    return tuple(map(float, normalize["mean"])), tuple(map(float, normalize["std"]))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
