"""BiFPN: a repeated bidirectional feature pyramid with learned weights of the maps."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.models.necks.base import (
    NECKS,
    Neck,
    Norm,
    convolution,
    match_shape,
    pyramid_levels,
    ratio,
    upsample_to,
)
from imgrec.models.utils.activations import Activation, make_activation
from imgrec.utils.ranges import PositiveInt, check_ranges

_EPSILON = 1e-4


def fast_fusion(maps: list[Tensor], weights: Tensor) -> Tensor:
    """Return the weighted mean of maps of one shape. Negative weights count as 0.

    Shapes: maps ``(batch, channels, height, width)``, weights ``(maps,)``.

    >>> fast_fusion([torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 6.0)], torch.tensor([3.0, 1.0])).round()
    tensor([[[[3.]]]])
    """
    shares = weights.relu()
    shares = shares / (shares.sum() + _EPSILON)
    total = shares[0] * maps[0]
    for i, each in enumerate(maps[1:], start=1):
        total = total + shares[i] * each
    return total


class Fusion(nn.Module):
    """Node of the pyramid: weighted sum of maps, activation and separable convolution."""

    def __init__(self, inputs: int, channels: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        self.act = make_activation(activation)
        self.conv = convolution(channels, channels, 3, norm=norm, depthwise=True)

    def forward(self, *maps: Tensor) -> Tensor:
        """Return the fused map of maps of one shape ``(batch, channels, height, width)``."""
        fused: Tensor = self.conv(self.act(fast_fusion(list(maps), self.weights)))
        return fused


class BiFPNLayer(nn.Module):
    """One top-down and one bottom-up pass."""

    def __init__(self, sizes: list[int], channels: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        count = len(sizes)
        self.strides = [ratio(fine, coarse) for fine, coarse in pairwise(sizes)]
        self.top_down = nn.ModuleList(Fusion(2, channels, norm, activation) for _ in range(count - 1))
        self.bottom_up = nn.ModuleList(
            Fusion(3 if number < count - 1 else 2, channels, norm, activation) for number in range(1, count)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the maps, fine to coarse, each fused with its neighbours."""
        last = len(maps) - 1
        between = list(maps)
        for fine in range(last - 1, -1, -1):
            between[fine] = self.top_down[fine](maps[fine], upsample_to(between[fine + 1], maps[fine]))
        found = [between[0]]
        for coarse in range(1, last + 1):
            finer = match_shape(_downsample(found[-1], self.strides[coarse - 1]), maps[coarse])
            inputs = (maps[coarse], between[coarse], finer) if coarse < last else (maps[coarse], finer)
            found.append(self.bottom_up[coarse - 1](*inputs))
        return tuple(found)


@NECKS.register("bifpn")
class BiFPN(Neck):
    """Weighted bidirectional feature pyramid: repeated top-down and bottom-up passes with learned weights of the maps.

    A node adds two or three maps with learned weights, and applies an activation and a depthwise-separable convolution.
    The pooling is applied to each output map, and the vectors are concatenated.

    Args:
        map_channels: Number of channels of each map of the backbone, fine to coarse, a fact of the backbone.
        map_sizes: Height of each map in pixels, a fact of the backbone.
        channels: Number of channels of the output maps, at least 1. Defaults to 64.
        layers: Number of repetitions, at least 1. Defaults to 2.
        levels: Indices of the maps of the backbone, from 0 for the finest, or from -1 for the coarsest. Defaults to the
            last map of each of the last three sizes.
        norm: Normalization after the convolutions. Defaults to ``batch``.
        activation: Activation before the convolution of a node. Defaults to ``silu``.

    Shapes: one map per level, float ``(batch, channels, height, width)``, of the sizes of the backbone.

    Raises:
        UserError: If all maps have one size, or if there is no such map.

    See Also:
        :class:`imgrec.models.FPN`. Use it instead if a single top-down pass is accurate enough.

    Source: Tan, Pang and Le, EfficientDet: Scalable and Efficient Object Detection, 2020, arXiv:1911.09070 (its fast
    normalized fusion).

    Example: ``model: {backbone: resnet18, neck: {name: bifpn, channels: 64, layers: 3}}``

    >>> neck = BiFPN(map_channels=(8, 16), map_sizes=(4, 2), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(2, 8, 4, 4), torch.ones(2, 16, 2, 2)))]
    [(2, 12, 4, 4), (2, 12, 2, 2)]
    """

    @check_ranges
    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: PositiveInt = 64,
        layers: PositiveInt = 2,
        levels: list[int] | None = None,
        norm: Norm = "batch",
        activation: Activation = "silu",
    ) -> None:
        selected = pyramid_levels(levels, map_channels, map_sizes)
        super().__init__(selected, [channels] * len(selected))
        self.lateral = nn.ModuleList(convolution(map_channels[level], channels, 1, norm=norm) for level in selected)
        sizes = [map_sizes[level] for level in selected]
        self.layers = nn.ModuleList(BiFPNLayer(sizes, channels, norm, activation) for _ in range(layers))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the fused maps."""
        found = tuple(lateral(each) for lateral, each in zip(self.lateral, maps, strict=True))
        for layer in self.layers:
            found = layer(found)
        return found


def _downsample(map_: Tensor, stride: int) -> Tensor:
    """Return the maximum around every ``stride``-th pixel."""
    return map_ if stride == 1 else F.max_pool2d(map_, stride + 1, stride, (stride + 1) // 2)
