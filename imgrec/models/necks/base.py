"""What a neck is: maps of several stages in, fused maps out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.activations import Activation, make_activation
from imgrec.registry import Registry

Norm = Literal["batch", "group", "layer", "none"]
"""What stands behind a convolution: over the batch, over groups of channels, over all channels of an image."""


class Neck(nn.Module):
    """Fuses maps of several stages of a backbone.

    A subclass names in its constructor the facts ``map_channels`` and ``map_sizes``, one number a map of the backbone,
    fine to coarse, and says here which of the maps it takes and what it gives.

    Args:
        levels: the numbers of the maps that it takes, ascending.
        out_channels: the channels of each map that it gives.

    Shapes: a tuple of float ``(batch, channels, height, width)`` in and out.
    """

    def __init__(self, levels: Sequence[int], out_channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.out_channels = tuple(out_channels)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The fused maps."""
        raise NotImplementedError


NECKS: Registry[Neck] = Registry("neck", "necks")
"""Necks by name."""


def pyramid_levels(levels: Sequence[int] | None, map_channels: Sequence[int], map_sizes: Sequence[int]) -> list[int]:
    """The maps of a pyramid, ascending: those asked for, or the last map of each of the last three sizes.

    Args:
        levels: numbers of maps; negative ones count from the last.
        map_channels: the channels of each map of the backbone, fine to coarse.
        map_sizes: the height of each, in pixels.

    Raises:
        UserError: a number that no map has, one twice, or maps that are all of one size.

    >>> pyramid_levels(None, (64, 64, 128, 256, 512), (16, 8, 4, 2, 2)), pyramid_levels([-1, 0], (8, 16, 32), (8, 4, 2))
    ([1, 2, 4], [0, 2])
    """
    if len(set(map_sizes)) < 2:
        size = map_sizes[0] if map_sizes else 0
        what = f"its maps are all of {size} x {size} pixels" if len(map_sizes) > 1 else "it has one stage only"
        raise UserError(
            f"a pyramid needs maps of several sizes, and the backbone gives none: {what}. A plain transformer takes "
            "the neck `simple_pyramid`, which makes maps of other sizes out of its last one"
        )
    if levels is None:
        last = {size: number for number, size in enumerate(map_sizes)}
        return sorted(last.values())[-3:]
    chosen = chosen_levels(levels, map_channels, map_sizes)
    if len({map_sizes[number] for number in chosen}) < 2:
        raise UserError(
            f"`levels` {list(levels)} are maps of one size, and a pyramid needs several; "
            f"{told(map_channels, map_sizes)}"
        )
    return chosen


def chosen_levels(levels: Sequence[int], map_channels: Sequence[int], map_sizes: Sequence[int]) -> list[int]:
    """The maps asked for, ascending; negative numbers count from the last.

    Raises:
        UserError: none, a number that no map has, or one twice.
    """
    count = len(map_sizes)
    unknown = [number for number in levels if not -count <= number < count]
    if unknown or not levels:
        wrong = f"the backbone has no map {unknown[0]}" if unknown else "`levels` are empty"
        raise UserError(f"{wrong}; {told(map_channels, map_sizes)}")
    chosen = [number % count for number in levels]
    if len(set(chosen)) < len(chosen):
        raise UserError(f"`levels` {list(levels)} name a map twice; {told(map_channels, map_sizes)}")
    return sorted(chosen)


def told(map_channels: Sequence[int], map_sizes: Sequence[int]) -> str:
    """The maps of a backbone, for messages."""
    listed = (f"{i}: {c} x {s} x {s}" for i, (c, s) in enumerate(zip(map_channels, map_sizes, strict=True)))
    return f"its maps are {', '.join(listed)}"


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    norm: Norm = "batch",
    activation: Activation | None = None,
    depthwise: bool = False,
) -> nn.Sequential:
    """A convolution that keeps the size but for its stride, then norm and activation where these are asked for.

    ``depthwise`` makes it two: one for each channel, and a 1x1 convolution that mixes them.
    """
    parts: list[nn.Module] = []
    if depthwise:
        parts.append(nn.Conv2d(in_channels, in_channels, kernel, stride, kernel // 2, groups=in_channels, bias=False))
        in_channels, kernel, stride = in_channels, 1, 1
    parts.append(nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm == "none"))
    if norm != "none":
        parts.append(norm_layer(norm, out_channels))
    if activation is not None:
        parts.append(make_activation(activation))
    return nn.Sequential(*parts)


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """A normalization of maps; ``layer`` is over all channels and places of an image, ``group`` over 32 groups of them.

    Where 32 groups do not go into the channels, there are as many as do.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    return nn.GroupNorm(max(count for count in range(1, 33) if channels % count == 0), channels)


def check_arguments(channels: int, norm: str, activation: str) -> None:
    """Raise :class:`UserError` for what no neck can be made of."""
    if channels < 1:
        raise UserError(f"`channels` must be 1 or more, got {channels}")
    for key, value, known in (("norm", norm, get_args(Norm)), ("activation", activation, get_args(Activation))):
        if value not in known:
            raise UserError(f"`{key}` {value!r} is unknown.{suggestion(value, known)} Accepted: {', '.join(known)}")


def widened(map_: Tensor, like: Tensor) -> Tensor:
    """``map_`` with the height and width of ``like``, each pixel repeated; most often twice."""
    return F.interpolate(map_, size=like.shape[2:], mode="nearest")


def fitted(map_: Tensor, like: Tensor) -> Tensor:
    """``map_`` with the height and width of ``like``, as it is where they are the same already."""
    return map_ if map_.shape[2:] == like.shape[2:] else widened(map_, like)


def ratio(fine: int, coarse: int) -> int:
    """How many pixels of a fine map lie along one of a coarse map.

    >>> ratio(7, 4), ratio(8, 2), ratio(1, 1)
    (2, 4, 1)
    """
    return max(1, round(fine / coarse + 1e-9))
