"""Mean and standard deviation for the normalization of images in a classifier."""

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
    """Return ``values`` for another number of channels: the mean for one, repeated in turn for more.

    >>> for_channels((0.2, 0.4, 0.6), 1), for_channels((0.5,), 3)
    ((0.4,), (0.5, 0.5, 0.5))
    """
    if len(values) == channels:
        return tuple(values)
    if channels == 1:
        return (round(sum(values) / len(values), 12),)
    return tuple(values[i % len(values)] for i in range(channels))


def check_normalize(normalize: Any, where: str = "normalize") -> None:
    """Raise an error if ``normalize`` has none of the accepted forms. See :func:`resolve_normalize`.

    Raises:
        SpecError: If the name is unknown or the mapping is invalid.
    """
    accepted = "auto, imagenet, half, or a mapping with the lists `mean` and `std`"
    if isinstance(normalize, str):
        words = ("auto", *_NAMED)
        if normalize not in words:
            raise SpecError(f'{where}: expected {accepted}, got "{normalize}".{suggestion(normalize, words)}')
        return
    if not isinstance(normalize, Mapping) or set(normalize) != {"mean", "std"}:
        raise SpecError(f"{where}: expected {accepted}, got {normalize!r}.")
    for key in ("mean", "std"):
        values = normalize[key]
        if (
            not isinstance(values, Sequence)
            or isinstance(values, str)
            or not all(map(_is_number, values))
            or not values
        ):
            raise SpecError(f"{where}.{key}: expected a list with a number per channel, got {values!r}.")
    if any(value <= 0 for value in normalize["std"]):
        raise SpecError(f"{where}.std: expected numbers above 0, got {list(normalize['std'])}.")


def resolve_normalize(
    normalize: Any,
    backbone_mean: Sequence[float],
    backbone_std: Sequence[float],
    channels: int,
    where: str = "normalize",
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation per channel, in units of [0, 1].

    Args:
        normalize: ``auto`` uses the preprocessing of the backbone, ``imagenet`` the statistics of ImageNet. ``half`` is
            0.5 and 0.5, which maps [0, 1] to [-1, 1]. A mapping contains the lists ``mean`` and ``std``.
        backbone_mean: Mean for ``auto``.
        backbone_std: Standard deviation for ``auto``.
        channels: Number of channels of the images.
        where: Key in the config for messages.

    Raises:
        SpecError: If the name is unknown, or if the number of values differs from the number of channels.

    >>> resolve_normalize("half", (0.4,), (0.2,), channels=1)
    ((0.5,), (0.5,))
    """
    check_normalize(normalize, where)
    if isinstance(normalize, str):
        mean, std = _NAMED.get(normalize, (tuple(backbone_mean), tuple(backbone_std)))
        return for_channels(mean, channels), for_channels(std, channels)
    for key in ("mean", "std"):
        if len(normalize[key]) != channels:
            raise SpecError(
                f"{where}.{key}: expected {channels} value(s), one per channel of the images, got "
                f"{list(normalize[key])}."
            )
    return tuple(map(float, normalize["mean"])), tuple(map(float, normalize["std"]))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
