"""Attention over channels and positions after the layers of a network: squeeze-and-excitation, ECA, CBAM."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Any

from annotated_types import Ge
from timm.layers.cbam import CbamModule
from timm.layers.eca import EcaModule
from timm.layers.squeeze_excite import SEModule
from torch import nn

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import find_branch_ends, insert_after, refuse_layers
from imgrec.models.utils.patterns import Scope
from imgrec.utils.ranges import PositiveInt, check_ranges

_DIVISOR = 8
"""Divisor of the number of hidden channels, as in timm. One or two channels before a ReLU often stop learning."""


class Attention(Edit):
    """Base class of edits that insert attention after the last layer of each residual branch, or after named layers.

    Args:
        scope: Part of the network whose residual branches receive it. See :class:`imgrec.models.edits.base.Edit`.
        after: Names or patterns of layers whose outputs are maps, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.
    """

    key = "attention"

    def __init__(self, scope: Scope, after: Scope, in_channels: int, image_size: int) -> None:
        super().__init__(scope)
        self.after = after
        self.image_format = in_channels, image_size

    @abstractmethod
    def layer(self, channels: int) -> nn.Module:
        """Return the attention for a layer with ``channels`` output channels."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with attention."""
        ends = find_branch_ends(network, self.scope, self.after, *self.image_format)
        refuse_layers(
            [name for name, output in ends.items() if not output.is_map],
            "layer",
            "the output is no map (N, C, H, W) with channels to weight",
            "after" if self.after is not None else "scope",
        )
        return insert_after(network, {name: self.layer(output.shape[1]) for name, output in ends.items()}, self.key)


@EDITS.register("se")
class SqueezeExcitation(Attention):
    """Squeeze-and-excitation after each residual branch: weights of the channels computed from their means.

    Args:
        reduction: Ratio of channels to hidden channels, at least 1. The number of hidden channels is rounded to a
            multiple of 8. Defaults to 16.
        scope: Names or patterns of modules that contain residual branches. Defaults to the whole network.
        after: Names or patterns of layers to insert it after, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If ``reduction`` is below 1, if there is no such layer, or if the output of one is no map.

    See Also:
        :class:`EfficientChannelAttention`. Use it instead to add almost no parameters.

    Source: Hu et al., Squeeze-and-excitation networks, 2017, arXiv:1709.01507.

    Example::

        edits: {name: se, reduction: 16, scope: [layer3, layer4]}

    >>> network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU())
    >>> type(SqueezeExcitation(after="0", image_size=8)(network)[0].se).__name__
    'SEModule'
    """

    key = "se"

    @check_ranges
    def __init__(
        self,
        reduction: Annotated[float, Ge(1)] = 16,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope, after, in_channels, image_size)
        self.reduction = reduction

    def layer(self, channels: int) -> nn.Module:
        """Return squeeze-and-excitation for ``channels`` channels."""
        layer: nn.Module = SEModule(channels, rd_ratio=1 / self.reduction, rd_divisor=_DIVISOR)
        return layer


@EDITS.register("eca")
class EfficientChannelAttention(Attention):
    """Efficient channel attention: weights of the channels from a convolution over neighbouring channels.

    It adds only the weights of this convolution, whose kernel size follows from the number of channels: 3 for 64, 5 for
    128 to 512.

    Args:
        scope: Names or patterns of modules that contain residual branches. Defaults to the whole network.
        after: Names or patterns of layers to insert it after, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If there is no such layer, or if the output of one is no map.

    See Also:
        :class:`SqueezeExcitation`. Use it instead to let every channel depend on all others.

    Source: Wang et al., ECA-Net: efficient channel attention for deep convolutional neural networks, 2019,
    arXiv:1910.03151.

    Example::

        edits: eca

    >>> network = nn.Sequential(nn.Conv2d(3, 64, 1), nn.ReLU())
    >>> EfficientChannelAttention(after="0", image_size=8)(network)[0].eca.conv.kernel_size
    (3,)
    """

    key = "eca"

    def __init__(self, scope: Scope = None, after: Scope = None, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(scope, after, in_channels, image_size)

    def layer(self, channels: int) -> nn.Module:
        """Return efficient channel attention for ``channels`` channels."""
        layer: nn.Module = EcaModule(channels)
        return layer


@EDITS.register("cbam")
class BlockAttention(Attention):
    """CBAM: weights of the channels, then of the positions, each from a mean and a maximum.

    Args:
        reduction: Ratio of channels to hidden channels, at least 1. The number of hidden channels is rounded to a
            multiple of 8. Defaults to 16.
        kernel_size: Kernel size of the convolution that computes the weights of positions, an odd number. Defaults to
            7.
        scope: Names or patterns of modules that contain residual branches. Defaults to the whole network.
        after: Names or patterns of layers to insert it after, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If ``reduction`` is below 1 or ``kernel_size`` is even, if there is no such layer, or if the output
            of one is no map.

    See Also:
        :class:`SqueezeExcitation`. Use it instead if positions need no weights.

    Source: Woo et al., CBAM: convolutional block attention module, 2018, arXiv:1807.06521.

    Example::

        edits: {name: cbam, kernel_size: 3}

    >>> network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU())
    >>> type(BlockAttention(after="0", image_size=8)(network)[0].cbam).__name__
    'CbamModule'
    """

    key = "cbam"

    @check_ranges
    def __init__(
        self,
        reduction: Annotated[float, Ge(1)] = 16,
        kernel_size: PositiveInt = 7,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope, after, in_channels, image_size)
        self.check_arguments(kernel_size)
        self.reduction, self.kernel_size = reduction, kernel_size

    @staticmethod
    def check_arguments(kernel_size: int = 7, **_: Any) -> None:
        """Raise an error if ``kernel_size`` is even."""
        if kernel_size % 2 == 0:
            raise UserError(f"kernel_size: expected an odd number, got {kernel_size}.")

    def layer(self, channels: int) -> nn.Module:
        """Return CBAM for ``channels`` channels."""
        layer: nn.Module = CbamModule(
            channels, rd_ratio=1 / self.reduction, rd_divisor=_DIVISOR, spatial_kernel_size=self.kernel_size
        )
        return layer
