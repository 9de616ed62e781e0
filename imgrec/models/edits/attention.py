"""Attention over channels, and over places, behind a network's layers: squeeze-and-excitation, ECA, CBAM."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import nn

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import find_branch_ends, insert_after, refuse_layers
from imgrec.models.utils.patterns import Scope

_DIVISOR = 8
"""As in timm's networks: a hidden layer of one or two channels behind a ReLU is soon a dead one."""


class Attention(Edit):
    """Attention behind the last layer of each residual branch, or behind layers that are named.

    Args:
        scope: the part of the network whose residual branches get it; see :class:`imgrec.models.edits.base.Edit`.
        after: names of layers, or patterns, in the place of residual branches; what they give must be maps.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.
    """

    key = "attention"

    def __init__(self, scope: Scope, after: Scope, in_channels: int, image_size: int) -> None:
        super().__init__(scope)
        self.after = after
        self.images = in_channels, image_size

    @abstractmethod
    def layer(self, channels: int) -> nn.Module:
        """What is put behind a layer that gives so many channels."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with the attention."""
        ends = find_branch_ends(network, self.scope, self.after, *self.images)
        refuse_layers(
            [name for name, given in ends.items() if not given.is_map],
            "layer",
            "what comes out there is no map, (N, C, H, W), whose channels could be weighed",
            "after" if self.after is not None else "scope",
        )
        return insert_after(network, {name: self.layer(given.shape[1]) for name, given in ends.items()}, self.key)


@EDITS.register("se")
class SqueezeExcitation(Attention):
    """Squeeze-and-excitation behind each residual branch: channels are weighed by what they hold on average.

    Args:
        reduction: the channels for each of the hidden layer, which has a multiple of 8.
        scope: where: names of modules around residual branches, or patterns; ``null`` means all.
        after: names of layers, or patterns, behind which it is put, in the place of the ends of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: a reduction below 1; no such layer, or one that gives no maps.

    Source: Hu et al., Squeeze-and-excitation networks, 2017, arXiv:1709.01507.

    Example::

        edits: {name: se, reduction: 16, scope: [layer3, layer4]}
    """

    key = "se"

    def __init__(
        self,
        reduction: float = 16,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope, after, in_channels, image_size)
        self.check_arguments(reduction)
        self.reduction = reduction

    @staticmethod
    def check_arguments(reduction: float = 16, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any network."""
        if reduction < 1:
            raise UserError(f"`reduction` must be at least 1, got {reduction}.")

    def layer(self, channels: int) -> nn.Module:
        """Squeeze-and-excitation for so many channels."""
        layer: nn.Module = SEModule(channels, rd_ratio=1 / self.reduction, rd_divisor=_DIVISOR)
        return layer


@EDITS.register("eca")
class EfficientChannelAttention(Attention):
    """Efficient channel attention: weights from a convolution over neighbouring channels, and hardly a parameter.

    The width of the convolution follows from the number of channels: 3 for 64, 5 for 128 to 512.

    Args:
        scope: where: names of modules around residual branches, or patterns; ``null`` means all.
        after: names of layers, or patterns, behind which it is put, in the place of the ends of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: no such layer, or one that gives no maps.

    Source: Wang et al., ECA-Net: efficient channel attention for deep convolutional neural networks, 2019,
    arXiv:1910.03151.

    Example::

        edits: eca
    """

    key = "eca"

    def __init__(self, scope: Scope = None, after: Scope = None, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(scope, after, in_channels, image_size)

    def layer(self, channels: int) -> nn.Module:
        """Efficient channel attention for so many channels."""
        layer: nn.Module = EcaModule(channels)
        return layer


@EDITS.register("cbam")
class BlockAttention(Attention):
    """CBAM: channels are weighed by their mean and maximum, then places by the mean and maximum over channels.

    Args:
        reduction: the channels for each of the hidden layer, which has a multiple of 8.
        kernel_size: the side of the convolution that weighs places, an odd number.
        scope: where: names of modules around residual branches, or patterns; ``null`` means all.
        after: names of layers, or patterns, behind which it is put, in the place of the ends of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: a reduction below 1, an even kernel; no such layer, or one that gives no maps.

    Source: Woo et al., CBAM: convolutional block attention module, 2018, arXiv:1807.06521.

    Example::

        edits: {name: cbam, kernel_size: 3}
    """

    key = "cbam"

    def __init__(
        self,
        reduction: float = 16,
        kernel_size: int = 7,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope, after, in_channels, image_size)
        self.check_arguments(reduction, kernel_size)
        self.reduction, self.kernel_size = reduction, kernel_size

    @staticmethod
    def check_arguments(reduction: float = 16, kernel_size: int = 7, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any network."""
        SqueezeExcitation.check_arguments(reduction)
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise UserError(f"`kernel_size` must be an odd number, got {kernel_size}.")

    def layer(self, channels: int) -> nn.Module:
        """CBAM for so many channels."""
        layer: nn.Module = CbamModule(
            channels, rd_ratio=1 / self.reduction, rd_divisor=_DIVISOR, spatial_kernel_size=self.kernel_size
        )
        return layer
