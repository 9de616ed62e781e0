"""What drops values in training, behind a network's layers: single ones, channels, blocks, or whole branches."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Literal

from timm.layers.drop import DropPath
from torch import nn
from torchvision.ops import StochasticDepth

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.drop_block import DropBlock
from imgrec.models.edits.placement import find_branch_ends, insert_after, refuse_layers
from imgrec.models.utils.patterns import Scope


class Dropping(Edit):
    """Dropping behind the last layer of each residual branch, or behind layers that are named.

    Where a network has an identity at the end of a branch, timm's ``drop_path`` say, it takes its place, and no
    parameter gets another name.

    Args:
        rate: the probability of being dropped, in [0, 1).
        scope: the part of the network whose residual branches are meant; see :class:`imgrec.models.edits.base.Edit`.
        after: names of layers, or patterns, in the place of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.
    """

    key = "drop"
    maps_only = True

    def __init__(
        self,
        rate: float = 0.1,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope)
        self.check_arguments(rate)
        self.rate = rate
        self.after = after
        self.images = in_channels, image_size

    @classmethod
    def check_arguments(cls, rate: float = 0.1, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any network."""
        if not 0.0 <= rate < 1.0:
            raise UserError(f"`rate` must be at least 0 and below 1, got {rate}.")

    @abstractmethod
    def layer(self, place: float) -> nn.Module:
        """What is put at a place: 1 is the last of them, ``1 / n`` the first of ``n``."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with the dropping."""
        ends = find_branch_ends(network, self.scope, self.after, *self.images, slots=True)
        if self.maps_only:
            refuse_layers(
                [name for name, given in ends.items() if not given.is_map],
                "layer",
                "what comes out there is no map, (N, C, H, W), of which parts could be dropped",
                "after" if self.after is not None else "scope",
            )
        layers = {name: self.layer((i + 1) / len(ends)) for i, name in enumerate(ends)}
        return insert_after(network, layers, self.key)


@EDITS.register("dropout")
class Dropout(Dropping):
    """Dropout of single values behind each residual branch, or behind layers that are named.

    In wide residual networks it stands between two convolutions: ``after: "*.act1"``. The one before the classifier is
    an argument of the heads.

    Args:
        rate: the probability of being dropped, in [0, 1).
        scope: where: names of modules around residual branches, or patterns; ``null`` means all.
        after: names of layers, or patterns, behind which it is put, in the place of the ends of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Source: Srivastava et al., 2014, JMLR 15; Zagoruyko and Komodakis, Wide residual networks, 2016, arXiv:1605.07146.

    Example::

        edits: {name: dropout, rate: 0.2, after: "layer[34].*.act1"}
    """

    maps_only = False

    def layer(self, place: float) -> nn.Module:
        """Dropout."""
        return nn.Dropout(self.rate)


@EDITS.register("spatial_dropout")
class SpatialDropout(Dropping):
    """Dropout of whole channels behind each residual branch, or behind layers that are named.

    Args:
        rate: the probability of being dropped, in [0, 1).
        scope: where: names of modules around residual branches, or patterns; ``null`` means all.
        after: names of layers, or patterns, behind which it is put, in the place of the ends of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Source: Tompson et al., Efficient object localization using convolutional networks, 2014, arXiv:1411.4280.

    Example::

        edits: {name: spatial_dropout, rate: 0.1}
    """

    def layer(self, place: float) -> nn.Module:
        """Dropout of channels."""
        return nn.Dropout2d(self.rate)


@EDITS.register("dropblock")
class DropBlocks(Dropping):
    """DropBlock: squares of the maps are dropped behind each residual branch, or behind layers that are named.

    Args:
        rate: the share of values that is dropped; 0.1 on large images, for which it was made.
        size: the side of a square in places of the map, not pixels; a map that is smaller goes as a whole.
        scope: where: names of modules around residual branches, or patterns; ``null`` means all. In the source it is
            the last two stages, ``[layer3, layer4]``.
        after: names of layers, or patterns, behind which it is put, in the place of the ends of residual branches.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Source: Ghiasi et al., DropBlock: a regularization method for convolutional networks, 2018, arXiv:1810.12890.

    Example::

        edits: {name: dropblock, rate: 0.1, size: 3, scope: [layer3, layer4]}
    """

    def __init__(
        self,
        rate: float = 0.1,
        size: int = 7,
        scope: Scope = None,
        after: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(rate, scope, after, in_channels, image_size)
        self.check_arguments(rate, size)
        self.size = size

    @classmethod
    def check_arguments(cls, rate: float = 0.1, size: int = 7, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any network."""
        super().check_arguments(rate)
        if size < 1:
            raise UserError(f"`size` must be at least 1, got {size}.")

    def layer(self, place: float) -> nn.Module:
        """DropBlock."""
        return DropBlock(self.rate, self.size)


@EDITS.register("stochastic_depth")
class Depth(Dropping):
    """Stochastic depth: residual branches of any network are left out for single images, later ones more often.

    Many of timm's networks have it as the argument ``drop_path_rate``; this is for the others, and for a part of one.

    Args:
        rate: the probability that the last branch is left out for an image, in [0, 1).
        rule: ``linear``: branch l of L has ``rate * l / L``; ``uniform``: all have ``rate``.
        scope: where: names of modules around residual branches, or patterns; ``null`` means all.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: the network has no residual branch, or has stochastic depth already.

    Source: Huang et al., Deep networks with stochastic depth, 2016, arXiv:1603.09382.

    Example::

        edits: {name: stochastic_depth, rate: 0.1}
    """

    key = "drop_path"
    maps_only = False

    def __init__(
        self,
        rate: float = 0.1,
        rule: Literal["linear", "uniform"] = "linear",
        scope: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(rate, scope, None, in_channels, image_size)
        self.rule = rule

    def layer(self, place: float) -> nn.Module:
        """A branch that is left out now and then."""
        path: nn.Module = DropPath(self.rate * place if self.rule == "linear" else self.rate)
        return path

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with stochastic depth."""
        for name, module in network.named_modules():
            if (isinstance(module, DropPath) and module.drop_prob) or (
                isinstance(module, StochasticDepth) and module.p
            ):
                raise UserError(f"the network has stochastic depth already, in {name}: it is an argument of its own.")
        return super().__call__(network)
