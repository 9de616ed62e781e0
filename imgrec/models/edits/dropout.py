"""Dropout of values, channels and residual branches after the layers of a network."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

from timm.layers.drop import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import find_branch_ends, insert_after, refuse_layers
from imgrec.models.utils.patterns import Scope
from imgrec.utils.ranges import RightOpenUnitInterval, check_ranges


class DropoutEdit(Edit):
    """Base class of edits that insert dropout after the last layer of each residual branch, or after named layers.

    An identity at the end of a branch, such as the ``drop_path`` of timm, is replaced. The names of all parameters
    then remain the same.

    Args:
        rate: Probability of being dropped, in [0, 1). Defaults to 0.1.
        scope: Part of the network whose residual branches receive it. See :class:`imgrec.models.edits.base.Edit`.
        after: Names or patterns of layers, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.
    """

    key = "drop"
    maps_only = True

    @check_ranges
    def __init__(
        self,
        rate: RightOpenUnitInterval = 0.1,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope)
        self.rate = rate
        self.after = after
        self.image_format = in_channels, image_size

    @abstractmethod
    def layer(self, depth: float) -> nn.Module:
        """Return the dropout for a relative ``depth``: ``1 / n`` for the first of ``n`` layers, 1 for the last."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with dropout."""
        ends = find_branch_ends(network, self.scope, self.after, *self.image_format, slots=True)
        if self.maps_only:
            refuse_layers(
                [name for name, output in ends.items() if not output.is_map],
                "layer",
                "the output is no map (N, C, H, W) with parts to drop",
                "after" if self.after is not None else "scope",
            )
        layers = {name: self.layer((i + 1) / len(ends)) for i, name in enumerate(ends)}
        return insert_after(network, layers, self.key)


@EDITS.register("dropout")
class Dropout(DropoutEdit):
    """Dropout of single values after each residual branch, or after named layers.

    Wide residual networks use it between two convolutions: ``after: "*.act1"``. Dropout before the classifier is an
    argument of the heads.

    Args:
        rate: Probability of being dropped, in [0, 1). Defaults to 0.1.
        scope: Names or patterns of modules that contain residual branches. Defaults to the whole network.
        after: Names or patterns of layers to insert it after, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    See Also:
        :class:`SpatialDropout`. Use it instead on maps, in which neighbouring values are correlated.

    Source: Srivastava et al., 2014, JMLR 15; Zagoruyko and Komodakis, Wide residual networks, 2016, arXiv:1605.07146.

    Example::

        edits: {name: dropout, rate: 0.2, after: "layer[34].*.act1"}

    >>> Dropout(0.2, after="0", image_size=8)(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))[0].drop
    Dropout(p=0.2, inplace=False)
    """

    maps_only = False

    def layer(self, depth: float) -> nn.Module:
        """Return dropout of values."""
        return nn.Dropout(self.rate)


@EDITS.register("spatial_dropout")
class SpatialDropout(DropoutEdit):
    """Dropout of whole channels after each residual branch, or after named layers.

    Args:
        rate: Probability of being dropped, in [0, 1). Defaults to 0.1.
        scope: Names or patterns of modules that contain residual branches. Defaults to the whole network.
        after: Names or patterns of layers to insert it after, instead of the ends of residual branches.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    See Also:
        :class:`imgrec.models.DropBlocks`. Use it instead to drop parts of large maps.

    Source: Tompson et al., Efficient object localization using convolutional networks, 2014, arXiv:1411.4280.

    Example::

        edits: {name: spatial_dropout, rate: 0.1}

    >>> SpatialDropout(after="0", image_size=8)(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))[0].drop
    Dropout2d(p=0.1, inplace=False)
    """

    def layer(self, depth: float) -> nn.Module:
        """Return dropout of channels."""
        return nn.Dropout2d(self.rate)


@EDITS.register("stochastic_depth")
class Depth(DropoutEdit):
    """Stochastic depth: residual branches are skipped for random images, later branches more often.

    Many networks of timm have it as the argument ``drop_path_rate``. This edit is for the others, and for parts of a
    network.

    Args:
        rate: Probability that the last branch is skipped for an image, in [0, 1). Defaults to 0.1.
        rule: Rate of branch l of L. ``linear``: ``rate * l / L``. ``uniform``: ``rate``. Defaults to ``linear``.
        scope: Names or patterns of modules that contain residual branches. Defaults to the whole network.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If the network has no residual branch, or has stochastic depth already.

    Source: Huang et al., Deep networks with stochastic depth, 2016, arXiv:1603.09382.

    Example::

        edits: {name: stochastic_depth, rate: 0.1}

    >>> from imgrec.models import BACKBONES
    >>> network = BACKBONES.build("resnet18", num_classes=2, in_channels=3, image_size=32).network
    >>> Depth(rate=0.4)(network).layer4[1].bn2.drop_path.drop_prob
    0.4
    """

    key = "drop_path"
    maps_only = False

    @check_ranges
    def __init__(
        self,
        rate: RightOpenUnitInterval = 0.1,
        rule: Literal["linear", "uniform"] = "linear",
        scope: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(rate, scope, None, in_channels, image_size)
        self.rule = rule

    def layer(self, depth: float) -> nn.Module:
        """Return a layer that sets a branch to zero for random images."""
        path: nn.Module = DropPath(self.rate * depth if self.rule == "linear" else self.rate)
        return path

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with stochastic depth."""
        for name, module in network.named_modules():
            if (isinstance(module, DropPath) and module.drop_prob) or (
                isinstance(module, StochasticDepth) and module.p
            ):
                raise UserError(
                    f"the network has stochastic depth already, in {name}. Set its rate as an argument of the backbone."
                )
        return super().__call__(network)
