"""Concatenation of maps of several stages after resizing them to one size."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.errors import UserError
from imgrec.models.necks.base import NECKS, Neck, Norm, convolution, select_levels
from imgrec.models.utils.activations import Activation
from imgrec.utils.ranges import PositiveInt, check_ranges


@NECKS.register("concat")
class ConcatNeck(Neck):
    """Maps of several stages, resized to one size, concatenated and mixed by a 1x1 convolution.

    The maps can have any sizes, also equal ones, such as those of several layers of a plain transformer.

    Args:
        map_channels: Number of channels of each map of the backbone, fine to coarse, a fact of the backbone.
        map_sizes: Height of each map in pixels, a fact of the backbone.
        channels: Number of channels of the output map, at least 1. Defaults to 256.
        levels: Indices of the maps of the backbone, from 0 for the finest, or from -1 for the coarsest. Defaults to the
            last three maps, or to all if there are fewer.
        size: Map whose size is used. ``finest`` interpolates bilinearly. ``coarsest`` averages areas, which costs less.
            Defaults to ``finest``.
        norm: Normalization after the convolution. Defaults to ``batch``.
        activation: Activation of the output map. Defaults to ``relu``.

    Shapes: one map, float ``(batch, channels, height, width)``.

    Raises:
        UserError: If there is no such map, or if only one map is selected.

    See Also:
        :class:`imgrec.models.FPN`. Use it instead to keep the maps of several sizes.

    Source: Hariharan et al., Hypercolumns for object segmentation and fine-grained localization, 2015,
    arXiv:1411.5752.

    Example: ``model: {backbone: vit_tiny_patch16_224, neck: {name: concat, levels: [-4, -3, -2, -1]}}``

    >>> neck = ConcatNeck(map_channels=(8, 16), map_sizes=(4, 2), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(2, 8, 4, 4), torch.ones(2, 16, 2, 2)))]
    [(2, 12, 4, 4)]
    """

    @check_ranges
    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: PositiveInt = 256,
        levels: list[int] | None = None,
        size: Literal["finest", "coarsest"] = "finest",
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        count = len(map_channels)
        selected = select_levels(range(max(0, count - 3), count) if levels is None else levels, map_channels, map_sizes)
        if len(selected) < 2:
            raise UserError("levels: expected two or more maps, got one. Remove the neck to pool one map.")
        super().__init__(selected, [channels])
        self.size = size
        self.mix = convolution(sum(map_channels[level] for level in selected), channels, 1, 1, norm, activation)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return a tuple of the one map."""
        like = maps[0] if self.size == "finest" else maps[-1]
        return (self.mix(torch.cat([_resize(each, like) for each in maps], dim=1)),)


def _resize(map_: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    if map_.shape[2:] == like.shape[2:]:
        return map_
    if map_.shape[2] > height:
        return F.adaptive_avg_pool2d(map_, (height, width))
    return F.interpolate(map_, size=(height, width), mode="bilinear")
