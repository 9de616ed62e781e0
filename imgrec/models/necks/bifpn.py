"""A pyramid that goes both ways, several times, and learns how much each map counts."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.necks.base import (
    NECKS,
    Neck,
    Norm,
    check_arguments,
    convolution,
    fitted,
    pyramid_levels,
    ratio,
    widened,
)
from imgrec.models.utils.activations import Activation, make_activation

_EPSILON = 1e-4


def fast_fusion(maps: list[Tensor], weights: Tensor) -> Tensor:
    """The sum of maps of one shape, each with its share: its weight, or 0 if negative, over the sum of all.

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
    """A node of the pyramid: maps, weighted, through an activation and a separable convolution."""

    def __init__(self, inputs: int, channels: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))
        self.act = make_activation(activation)
        self.conv = convolution(channels, channels, 3, norm=norm, depthwise=True)

    def forward(self, *maps: Tensor) -> Tensor:
        """Shapes: maps of one shape ``(batch, channels, height, width)`` to one of it."""
        fused: Tensor = self.conv(self.act(fast_fusion(list(maps), self.weights)))
        return fused


class BiFPNLayer(nn.Module):
    """Once top-down and once bottom-up."""

    def __init__(self, sizes: list[int], channels: int, norm: Norm, activation: Activation) -> None:
        super().__init__()
        count = len(sizes)
        self.strides = [ratio(fine, coarse) for fine, coarse in pairwise(sizes)]
        self.top_down = nn.ModuleList(Fusion(2, channels, norm, activation) for _ in range(count - 1))
        self.bottom_up = nn.ModuleList(
            Fusion(3 if number < count - 1 else 2, channels, norm, activation) for number in range(1, count)
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The maps, fine to coarse, each fused with its neighbours."""
        last = len(maps) - 1
        between = list(maps)
        for fine in range(last - 1, -1, -1):
            between[fine] = self.top_down[fine](maps[fine], widened(between[fine + 1], maps[fine]))
        found = [between[0]]
        for coarse in range(1, last + 1):
            finer = fitted(_shrunk(found[-1], self.strides[coarse - 1]), maps[coarse])
            inputs = (maps[coarse], between[coarse], finer) if coarse < last else (maps[coarse], finer)
            found.append(self.bottom_up[coarse - 1](*inputs))
        return tuple(found)


@NECKS.register("bifpn")
class BiFPN(Neck):
    """Weighted bidirectional feature pyramid: both ways, repeated, each map with a weight that is learnt.

    A node adds two or three maps with shares that training moves, then an activation and a depthwise-separable
    convolution; a layer goes top-down and bottom-up once. The classifier pools each map that comes out, and puts the
    vectors side by side.

    Args:
        map_channels: the channels of each map of the backbone, fine to coarse.
        map_sizes: the height of each, in pixels.
        channels: of the maps that it gives.
        layers: how often it goes both ways.
        levels: the numbers of the backbone's maps that it takes, 0 being the finest, -1 the coarsest; by default the
            last of each of the last three sizes.
        norm: what stands behind its convolutions.
        activation: what stands before the convolution of a node.

    Shapes: one map a level, float ``(batch, channels, height, width)``, each of the size of the backbone's.

    Raises:
        UserError: the backbone's maps are all of one size, there is no such map, or no layer.

    Source: Tan, Pang and Le, EfficientDet: Scalable and Efficient Object Detection, 2020, arXiv:1911.09070 (its fast
    normalized fusion).

    Example: ``model: {backbone: resnet18, neck: {name: bifpn, channels: 64, layers: 3}}``

    >>> neck = BiFPN(map_channels=(8, 16), map_sizes=(4, 2), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(2, 8, 4, 4), torch.ones(2, 16, 2, 2)))]
    [(2, 12, 4, 4), (2, 12, 2, 2)]
    """

    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: int = 64,
        layers: int = 2,
        levels: list[int] | None = None,
        norm: Norm = "batch",
        activation: Activation = "silu",
    ) -> None:
        check_arguments(channels, norm, activation)
        if layers < 1:
            raise UserError(f"`layers` must be 1 or more, got {layers}")
        chosen = pyramid_levels(levels, map_channels, map_sizes)
        super().__init__(chosen, [channels] * len(chosen))
        self.lateral = nn.ModuleList(convolution(map_channels[level], channels, 1, norm=norm) for level in chosen)
        sizes = [map_sizes[level] for level in chosen]
        self.layers = nn.ModuleList(BiFPNLayer(sizes, channels, norm, activation) for _ in range(layers))

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The fused maps."""
        found = tuple(lateral(each) for lateral, each in zip(self.lateral, maps, strict=True))
        for layer in self.layers:
            found = layer(found)
        return found


def _shrunk(map_: Tensor, stride: int) -> Tensor:
    """The largest value around every ``stride``-th pixel."""
    return map_ if stride == 1 else F.max_pool2d(map_, stride + 1, stride, (stride + 1) // 2)
