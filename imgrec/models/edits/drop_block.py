"""DropBlock: whole squares of a map are set to zero, since its neighbours tell what a single value was."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def spread_blocks(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """The places that blocks cover, where ``corners`` is 1 at the upper left place of each.

    Shapes: float ``(N, C, h, w)`` to ``(N, C, h + size[0] - 1, w + size[1] - 1)``, 1 or 0.

    >>> spread_blocks(torch.tensor([[[[0.0, 1.0]]]]), (1, 2))
    tensor([[[[0., 1., 1.]]]])
    """
    down, across = size
    around = F.pad(corners, (across - 1, across - 1, down - 1, down - 1))
    return F.max_pool2d(around, size, stride=1)


def drop_block(maps: Tensor, rate: float, size: int) -> Tensor:
    """Maps with squares of zeros, drawn for each channel alone, the rest scaled so that as much is left on average.

    Args:
        maps: float ``(N, C, H, W)``.
        rate: the share of values that is dropped, nearly: where blocks overlap, it is less.
        size: the side of a block in places of the map; a smaller map is dropped as a whole.

    Draws from torch's default generator.

    Source: Ghiasi et al., DropBlock: a regularization method for convolutional networks, 2018, arXiv:1810.12890,
    algorithm 1.
    """
    height, width = maps.shape[-2:]
    block = min(size, height), min(size, width)
    free = height - block[0] + 1, width - block[1] + 1
    chance = rate * height * width / (block[0] * block[1] * free[0] * free[1])
    corners = torch.empty(*maps.shape[:2], *free, device=maps.device).bernoulli_(chance)
    kept = 1 - spread_blocks(corners, block)
    return maps * (kept * (kept.numel() / kept.sum().clamp_min(1))).to(maps.dtype)


class DropBlock(nn.Module):
    """DropBlock in training, nothing in evaluation; see :func:`drop_block`."""

    def __init__(self, rate: float, size: int) -> None:
        super().__init__()
        self.rate, self.size = rate, size

    def forward(self, maps: Tensor) -> Tensor:
        """Shapes: ``(N, C, H, W)`` in and out."""
        return drop_block(maps, self.rate, self.size) if self.training and self.rate else maps

    def extra_repr(self) -> str:
        """What ``print`` says of it."""
        return f"rate={self.rate}, size={self.size}"
