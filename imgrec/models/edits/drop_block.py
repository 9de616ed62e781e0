"""DropBlock: dropout of contiguous squares of a map, because neighbouring values are correlated."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.models.edits.base import EDITS
from imgrec.models.edits.dropout import DropoutEdit
from imgrec.models.utils.patterns import Scope
from imgrec.utils.ranges import PositiveInt, RightOpenUnitInterval, check_ranges


def spread_blocks(corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a mask of the positions in blocks. ``corners`` is 1 at the upper left position of each block.

    Shapes: float ``(N, C, h, w)`` to ``(N, C, h + size[0] - 1, w + size[1] - 1)``, 1 or 0.

    >>> spread_blocks(torch.tensor([[[[0.0, 1.0]]]]), (1, 2))
    tensor([[[[0., 1., 1.]]]])
    """
    height, width = size
    padded = F.pad(corners, (width - 1, width - 1, height - 1, height - 1))
    return F.max_pool2d(padded, size, stride=1)


def drop_block(maps: Tensor, rate: float, size: int) -> Tensor:
    """Set random squares of maps to zero, drawn per channel, and scale the other values to preserve the mean.

    It draws from the default generator of torch.

    Args:
        maps: Float ``(N, C, H, W)``.
        rate: Share of values to drop. The actual share is lower, because blocks overlap.
        size: Height and width of a block in positions of the map. A smaller map is dropped as a whole.

    Returns:
        Float ``(N, C, H, W)``.

    Example:
        >>> drop_block(torch.ones(1, 2, 4, 4), rate=0.5, size=2).shape
        torch.Size([1, 2, 4, 4])

    Source: Ghiasi et al., DropBlock: a regularization method for convolutional networks, 2018, arXiv:1810.12890,
    algorithm 1.
    """
    height, width = maps.shape[-2:]
    block = min(size, height), min(size, width)
    free = height - block[0] + 1, width - block[1] + 1
    probability = rate * height * width / (block[0] * block[1] * free[0] * free[1])
    corners = torch.empty(*maps.shape[:2], *free, device=maps.device).bernoulli_(probability)
    kept = 1 - spread_blocks(corners, block)
    return maps * (kept * (kept.numel() / kept.sum().clamp_min(1))).to(maps.dtype)


class DropBlock(nn.Module):
    """DropBlock in training, the identity in evaluation. See :func:`drop_block`."""

    def __init__(self, rate: float, size: int) -> None:
        super().__init__()
        self.rate, self.size = rate, size

    def forward(self, maps: Tensor) -> Tensor:
        """Return the maps, float ``(N, C, H, W)``, without the dropped values."""
        return drop_block(maps, self.rate, self.size) if self.training and self.rate else maps

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"rate={self.rate}, size={self.size}"


@EDITS.register("dropblock")
class DropBlocks(DropoutEdit):
    """DropBlock after each residual branch, or after named layers: dropout of squares of the maps.

    Args:
        rate: Share of values to drop, in [0, 1). Defaults to 0.1, for large images.
        size: Height and width of a block in positions of the map, at least 1. A smaller map is dropped as a whole.
            Defaults to 7.
        scope: Names or patterns of modules that contain residual branches. The paper uses the last two stages,
            ``[layer3, layer4]``. Defaults to the whole network.
        after: Names or patterns of layers to insert it after, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    See Also:
        :class:`imgrec.models.SpatialDropout`. Use it instead if the maps have few positions.

    Source: Ghiasi et al., DropBlock: a regularization method for convolutional networks, 2018, arXiv:1810.12890.

    Example::

        edits: {name: dropblock, rate: 0.1, size: 3, scope: [layer3, layer4]}

    >>> DropBlocks(size=3, after="0", image_size=8)(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))[0].drop
    DropBlock(rate=0.1, size=3)
    """

    @check_ranges
    def __init__(
        self,
        rate: RightOpenUnitInterval = 0.1,
        size: PositiveInt = 7,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(rate, scope, after, in_channels, image_size)
        self.size = size

    def layer(self, depth: float) -> nn.Module:
        """Return DropBlock."""
        return DropBlock(self.rate, self.size)
