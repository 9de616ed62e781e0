"""Base class and registry of necks, and the layers and checks that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.activations import Activation, make_activation
from imgrec.registry import Registry

Norm = Literal["batch", "group", "layer", "none"]
"""Normalization after a convolution: over the batch, over groups of channels, over all channels of an image."""


class Neck(nn.Module):
    """Base class of modules that fuse the maps of several stages of a backbone.

    The constructor of a subclass has the parameters ``map_channels`` and ``map_sizes``, facts of the backbone with one
    number per map, fine to coarse. It passes the indices of its input maps and the channels of its output maps on.

    Args:
        levels: Indices of the input maps, ascending.
        out_channels: Number of channels of each output map.

    Shapes: a tuple of float ``(batch, channels, height, width)`` in and out.
    """

    def __init__(self, levels: Sequence[int], out_channels: Sequence[int]) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.out_channels = tuple(out_channels)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the fused maps."""
        raise NotImplementedError


NECKS: Registry[Neck] = Registry("neck", "necks")
"""Necks by name."""


def pyramid_levels(levels: Sequence[int] | None, map_channels: Sequence[int], map_sizes: Sequence[int]) -> list[int]:
    """Return the indices of the maps of a pyramid, ascending, by default the last map of each of the last three sizes.

    Args:
        levels: Indices of maps. Negative ones count from the last. ``None`` selects the default.
        map_channels: Number of channels of each map of the backbone, fine to coarse.
        map_sizes: Height of each map in pixels.

    Raises:
        UserError: If an index is out of range or repeated, or if all maps have one size.

    >>> pyramid_levels(None, (64, 64, 128, 256, 512), (16, 8, 4, 2, 2)), pyramid_levels([-1, 0], (8, 16, 32), (8, 4, 2))
    ([1, 2, 4], [0, 2])
    """
    if len(set(map_sizes)) < 2:
        size = map_sizes[0] if map_sizes else 0
        found = f"maps of {size} x {size} pixels only" if len(map_sizes) > 1 else "a backbone of one stage"
        raise UserError(
            f"expected maps of several sizes for a pyramid, got {found}. For a plain transformer, use the neck "
            "`simple_pyramid`, which resizes its last map."
        )
    if levels is None:
        last = {size: number for number, size in enumerate(map_sizes)}
        return sorted(last.values())[-3:]
    selected = select_levels(levels, map_channels, map_sizes)
    if len({map_sizes[number] for number in selected}) < 2:
        raise UserError(
            f"levels: expected maps of several sizes, got {list(levels)}. {describe_maps(map_channels, map_sizes)}"
        )
    return selected


def select_levels(levels: Sequence[int], map_channels: Sequence[int], map_sizes: Sequence[int]) -> list[int]:
    """Return the indices of the selected maps, ascending. Negative indices count from the last.

    Raises:
        UserError: If there is no index, or if one is out of range or repeated.
    """
    count = len(map_sizes)
    unknown = [number for number in levels if not -count <= number < count]
    if unknown or not levels:
        raise UserError(
            f"levels: expected indices of maps, got {list(levels)}. {describe_maps(map_channels, map_sizes)}"
        )
    selected = [number % count for number in levels]
    if len(set(selected)) < len(selected):
        raise UserError(
            f"levels: expected different maps, got {list(levels)}. {describe_maps(map_channels, map_sizes)}"
        )
    return sorted(selected)


def describe_maps(map_channels: Sequence[int], map_sizes: Sequence[int]) -> str:
    """Return the maps of a backbone as text for messages."""
    listed = (f"{i}: {c} x {s} x {s}" for i, (c, s) in enumerate(zip(map_channels, map_sizes, strict=True)))
    return f"The maps of the backbone are {', '.join(listed)}."


def convolution(
    in_channels: int,
    out_channels: int,
    kernel: int,
    stride: int = 1,
    norm: Norm = "batch",
    activation: Activation | None = None,
    depthwise: bool = False,
) -> nn.Sequential:
    """Return a convolution that keeps the size except for its stride, with optional normalization and activation.

    ``depthwise`` replaces it by a depthwise convolution and a 1x1 convolution.
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
    """Return a normalization of maps.

    ``layer`` normalizes all channels and positions of an image together, ``group`` in 32 groups, or in the largest
    smaller number that divides the channels.

    Raises:
        UserError: If ``norm`` is unknown.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "layer":
        return nn.GroupNorm(1, channels)
    if norm == "group":
        return nn.GroupNorm(max(count for count in range(1, 33) if channels % count == 0), channels)
    accepted = get_args(Norm)
    raise UserError(f'norm: expected one of {", ".join(accepted)}, got "{norm}".{suggestion(norm, accepted)}')


def upsample_to(map_: Tensor, like: Tensor) -> Tensor:
    """Return ``map_`` with the height and width of ``like``, by repetition of pixels, usually twice."""
    return F.interpolate(map_, size=like.shape[2:], mode="nearest")


def match_shape(map_: Tensor, like: Tensor) -> Tensor:
    """Return ``map_`` with the height and width of ``like``, unchanged if they are equal."""
    return map_ if map_.shape[2:] == like.shape[2:] else upsample_to(map_, like)


def ratio(fine: int, coarse: int) -> int:
    """Return the stride from a fine to a coarse map of the given heights.

    >>> ratio(7, 4), ratio(8, 2), ratio(1, 1)
    (2, 4, 1)
    """
    return max(1, round(fine / coarse + 1e-9))
