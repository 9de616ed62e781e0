"""Maps of several stages brought to one size and put side by side."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.errors import UserError
from imgrec.models.necks.base import NECKS, Neck, Norm, check_arguments, chosen_levels, convolution
from imgrec.models.utils.activations import Activation


@NECKS.register("concat")
class Concat(Neck):
    """Maps of several stages, brought to one size, side by side, and mixed by a 1x1 convolution.

    It takes maps of any sizes: of one size too, as several layers of a plain transformer give them.

    Args:
        map_channels: the channels of each map of the backbone, fine to coarse.
        map_sizes: the height of each, in pixels.
        channels: of the map that it gives.
        levels: the numbers of the backbone's maps that it takes, 0 being the finest, -1 the coarsest; by default the
            last three, or all where there are fewer.
        size: the size of which map they are brought to: the ``finest``, by bilinear interpolation, or the ``coarsest``,
            as means of areas, which costs less.
        norm: what stands behind the convolution.
        activation: what ends the map.

    Shapes: one map, float ``(batch, channels, height, width)``.

    Raises:
        UserError: there is no such map, or only one is taken.

    Source: Hariharan et al., Hypercolumns for object segmentation and fine-grained localization, 2015,
    arXiv:1411.5752.

    Example: ``model: {backbone: vit_tiny_patch16_224, neck: {name: concat, levels: [-4, -3, -2, -1]}}``

    >>> neck = Concat(map_channels=(8, 16), map_sizes=(4, 2), channels=12)
    >>> [tuple(each.shape) for each in neck((torch.ones(2, 8, 4, 4), torch.ones(2, 16, 2, 2)))]
    [(2, 12, 4, 4)]
    """

    def __init__(
        self,
        map_channels: tuple[int, ...],
        map_sizes: tuple[int, ...],
        channels: int = 256,
        levels: list[int] | None = None,
        size: Literal["finest", "coarsest"] = "finest",
        norm: Norm = "batch",
        activation: Activation = "relu",
    ) -> None:
        check_arguments(channels, norm, activation)
        count = len(map_channels)
        chosen = chosen_levels(range(max(0, count - 3), count) if levels is None else levels, map_channels, map_sizes)
        if len(chosen) < 2:
            raise UserError("there is nothing to put side by side in one map: a pooling alone needs no neck")
        super().__init__(chosen, [channels])
        self.size = size
        self.mix = convolution(sum(map_channels[level] for level in chosen), channels, 1, 1, norm, activation)

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The one map."""
        like = maps[0] if self.size == "finest" else maps[-1]
        return (self.mix(torch.cat([_brought(each, like) for each in maps], dim=1)),)


def _brought(map_: Tensor, like: Tensor) -> Tensor:
    height, width = like.shape[2:]
    if map_.shape[2:] == like.shape[2:]:
        return map_
    if map_.shape[2] > height:
        return F.adaptive_avg_pool2d(map_, (height, width))
    return F.interpolate(map_, size=(height, width), mode="bilinear")
