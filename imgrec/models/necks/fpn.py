"""Feature pyramids that go top-down, and back again bottom-up."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

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
from imgrec.models.utils.activations import Activation


@NECKS.register("fpn")
class FPN(Neck):
    """Feature pyramid network: what coarse maps know is added to finer ones, top-down.

    A 1x1 convolution brings every map to the same number of channels; from the coarsest on, each map is enlarged and
    added to the one that is twice as fine; a 3x3 convolution smooths each sum. The classifier pools each map that
    comes out, and puts the vectors side by side.

    Args:
        map_channels: the channels of each map of the backbone, fine to coarse.
        map_sizes: the height of each, in pixels.
        channels: of the maps that it gives.
        levels: the numbers of the backbone's maps that it takes, 0 being the finest, -1 the coarsest; by default the
            last of each of the last three sizes.
        norm: what stands behind its convolutions; the paper has ``none``.
        activation: what ends each map that it gives; the paper has ``identity``.

    Shapes: one map a level, float ``(batch, channels, height, width)``, each of the size of the backbone's.

    Raises:
        UserError: the backbone's maps are all of one size, or there is no such map.

    Source: Lin et al., Feature Pyramid Networks for Object Detection, 2017, arXiv:1612.03144.

    Example: ``model: {backbone: resnet18, neck: {name: fpn, channels: 128, levels: [2, 3, 4]}}``

    >>> import torch
    >>> neck = FPN(map_channels=(8, 16, 32), map_sizes=(8, 4, 2), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(1, 8, 8, 8), torch.ones(1, 16, 4, 4), torch.ones(1, 32, 2, 2)))]
    [(1, 12, 8, 8), (1, 12, 4, 4), (1, 12, 2, 2)]
    """

    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: int = 128,
        levels: list[int] | None = None,
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        check_arguments(channels, norm, activation)
        chosen = pyramid_levels(levels, map_channels, map_sizes)
        super().__init__(chosen, [channels] * len(chosen))
        self.lateral = nn.ModuleList(convolution(map_channels[level], channels, 1, norm=norm) for level in chosen)
        self.smooth = nn.ModuleList(
            convolution(channels, channels, 3, norm=norm, activation=activation) for _ in chosen
        )

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The fused maps."""
        return tuple(smooth(each) for smooth, each in zip(self.smooth, self.top_down(maps), strict=True))

    def top_down(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        """The sums, fine to coarse, before they are smoothed."""
        sums = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        for fine in range(len(sums) - 2, -1, -1):
            sums[fine] = sums[fine] + widened(sums[fine + 1], sums[fine])
        return sums


@NECKS.register("pan")
class PAN(FPN):
    """Path aggregation network: a feature pyramid top-down, then what fine maps know goes bottom-up again.

    After the pyramid of :class:`FPN`, each map is made smaller by a strided convolution and added to the next coarser
    one, which a 3x3 convolution smooths: exact places reach the coarsest map on a short way. The classifier pools each
    map that comes out, and puts the vectors side by side.

    Args:
        map_channels: the channels of each map of the backbone, fine to coarse.
        map_sizes: the height of each, in pixels.
        channels: of the maps that it gives.
        levels: the numbers of the backbone's maps that it takes, 0 being the finest, -1 the coarsest; by default the
            last of each of the last three sizes.
        norm: what stands behind its convolutions; the paper has ``none``.
        activation: what stands behind the convolutions of the way back.

    Shapes: one map a level, float ``(batch, channels, height, width)``, each of the size of the backbone's.

    Raises:
        UserError: the backbone's maps are all of one size, or there is no such map.

    Source: Liu et al., Path Aggregation Network for Instance Segmentation, 2018, arXiv:1803.01534.

    Example: ``model: {backbone: resnet18, neck: {name: pan, channels: 128}}``

    >>> import torch
    >>> neck = PAN(map_channels=(8, 16), map_sizes=(7, 4), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(1, 8, 7, 7), torch.ones(1, 16, 4, 4)))]
    [(1, 12, 7, 7), (1, 12, 4, 4)]
    """

    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: int = 128,
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
        """The fused maps."""
        pyramid = super().forward(maps)
        found = [pyramid[0]]
        for down, join, each in zip(self.down, self.joined, pyramid[1:], strict=True):
            found.append(join(each + fitted(down(found[-1]), each)))
        return tuple(found)
