"""Feature pyramids: FPN with a top-down pass, PAN with an additional bottom-up pass."""

from __future__ import annotations

from itertools import pairwise

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
from imgrec.models.utils.activations import Activation
from imgrec.utils.ranges import PositiveInt, check_ranges


@NECKS.register("fpn")
class FPN(Neck):
    """Feature pyramid network: a top-down pass that adds each coarse map to the next finer one.

    A 1x1 convolution gives every map the same number of channels. From the coarsest on, each map is upsampled and added
    to the next finer one. A 3x3 convolution smooths each sum. The pooling is applied to each output map, and the
    vectors are concatenated.

    Args:
        map_channels: Number of channels of each map of the backbone, fine to coarse, a fact of the backbone.
        map_sizes: Height of each map in pixels, a fact of the backbone.
        channels: Number of channels of the output maps, at least 1. Defaults to 128.
        levels: Indices of the maps of the backbone, from 0 for the finest, or from -1 for the coarsest. Defaults to the
            last map of each of the last three sizes.
        norm: Normalization after the convolutions. The paper uses ``none``. Defaults to ``batch``.
        activation: Activation of the output maps. The paper uses ``identity``. Defaults to ``relu``.

    Shapes: one map per level, float ``(batch, channels, height, width)``, of the sizes of the backbone.

    Raises:
        UserError: If all maps have one size, or if there is no such map.

    See Also:
        :class:`PAN`. Use it instead if coarse maps need precise positions. :class:`imgrec.models.SimplePyramid` is for
        backbones whose maps all have one size.

    Source: Lin et al., Feature Pyramid Networks for Object Detection, 2017, arXiv:1612.03144.

    Example: ``model: {backbone: resnet18, neck: {name: fpn, channels: 128, levels: [2, 3, 4]}}``

    >>> import torch
    >>> neck = FPN(map_channels=(8, 16, 32), map_sizes=(8, 4, 2), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(1, 8, 8, 8), torch.ones(1, 16, 4, 4), torch.ones(1, 32, 2, 2)))]
    [(1, 12, 8, 8), (1, 12, 4, 4), (1, 12, 2, 2)]
    """

    @check_ranges
    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: PositiveInt = 128,
        levels: list[int] | None = None,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        selected = pyramid_levels(levels, map_channels, map_sizes)
        super().__init__(selected, [channels] * len(selected))
        self.lateral = nn.ModuleList(convolution(map_channels[level], channels, 1, norm=norm) for level in selected)
        self.smooth = nn.ModuleList(
            convolution(channels, channels, 3, norm=norm, activation=activation) for _ in selected
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the fused maps."""
        return tuple(smooth(each) for smooth, each in zip(self.smooth, self.top_down(maps), strict=True))

    def top_down(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """Return the sums, fine to coarse, before they are smoothed."""
        sums = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        for fine in range(len(sums) - 2, -1, -1):
            sums[fine] = sums[fine] + upsample_to(sums[fine + 1], sums[fine])
        return sums


@NECKS.register("pan")
class PAN(FPN):
    """Path aggregation network: the top-down pass of :class:`FPN`, then a bottom-up pass.

    In the bottom-up pass, a strided convolution downsamples each map, which is added to the next coarser one. A 3x3
    convolution smooths the sum. Precise positions thus reach the coarsest map through few layers. The pooling is
    applied to each output map, and the vectors are concatenated.

    Args:
        map_channels: Number of channels of each map of the backbone, fine to coarse, a fact of the backbone.
        map_sizes: Height of each map in pixels, a fact of the backbone.
        channels: Number of channels of the output maps, at least 1. Defaults to 128.
        levels: Indices of the maps of the backbone, from 0 for the finest, or from -1 for the coarsest. Defaults to the
            last map of each of the last three sizes.
        norm: Normalization after the convolutions. The paper uses ``none``. Defaults to ``batch``.
        activation: Activation after the convolutions of the bottom-up pass. Defaults to ``relu``.

    Shapes: one map per level, float ``(batch, channels, height, width)``, of the sizes of the backbone.

    Raises:
        UserError: If all maps have one size, or if there is no such map.

    See Also:
        :class:`imgrec.models.BiFPN`. Use it instead to repeat both passes with learned weights.

    Source: Liu et al., Path Aggregation Network for Instance Segmentation, 2018, arXiv:1803.01534.

    Example: ``model: {backbone: resnet18, neck: {name: pan, channels: 128}}``

    >>> import torch
    >>> neck = PAN(map_channels=(8, 16), map_sizes=(7, 4), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(1, 8, 7, 7), torch.ones(1, 16, 4, 4)))]
    [(1, 12, 7, 7), (1, 12, 4, 4)]
    """

    @check_ranges
    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: PositiveInt = 128,
        levels: list[int] | None = None,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        super().__init__(map_channels, map_sizes, channels, levels, norm, activation)
        sizes = [map_sizes[level] for level in self.levels]
        strides = [ratio(fine, coarse) for fine, coarse in pairwise(sizes)]
        self.down = nn.ModuleList(
            convolution(channels, channels, 3 if stride < 4 else stride + 1, stride, norm, activation)
            for stride in strides
        )
        self.joined = nn.ModuleList(convolution(channels, channels, 3, 1, norm, activation) for _ in strides)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the fused maps."""
        pyramid = super().forward(maps)
        found = [pyramid[0]]
        for down, join, each in zip(self.down, self.joined, pyramid[1:], strict=True):
            found.append(join(each + match_shape(down(found[-1]), each)))
        return tuple(found)
