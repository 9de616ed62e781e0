"""Other normalization in the place of a network's own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm import LayerNorm2d, RmsNorm, RmsNorm2d
from timm.layers.std_conv import StdConv2d, StdConv2dSame
from torch import nn

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import refuse_layers, replace_modules, select_layers
from imgrec.models.utils.patterns import Scope
from imgrec.models.utils.probe import LayerOutput, probe

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, RmsNorm, RmsNorm2d)

_STANDARDIZED: dict[type[nn.Module], Any] = {nn.Conv2d: StdConv2d, Conv2dSame: StdConv2dSame}

Norm = Literal["batch", "group", "layer", "layer2d", "instance"]


def make_norm(kind: Norm, channels: int, groups: int = 32) -> nn.Module:
    """A normalization of maps ``(N, C, H, W)`` with a scale and a shift for each channel.

    ``groups`` are at most so many, with 4 channels each at least; the next smaller number that divides the channels.

    >>> [make_norm("group", channels).num_groups for channels in (256, 48, 6)]
    [32, 12, 1]
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if kind == "layer2d":
        per_place: nn.Module = LayerNorm2d(channels)
        return per_place
    most = 1 if kind == "layer" else max(1, min(groups, channels // 4))  # on a map of one place, few are hardly any
    return nn.GroupNorm(next(g for g in range(most, 0, -1) if channels % g == 0), channels)


@EDITS.register("swap_norm")
class SwapNorm(Edit):
    """Another normalization in the place of those that a network has: group normalization for small batches, say.

    Scale and shift of each channel are taken over; running statistics begin anew. A layer that normalizes and activates
    keeps its activation.

    Args:
        to: ``batch``: each channel over all images of a batch; ``group``: some channels of one image together;
            ``layer``: all of one image; ``layer2d``: all channels of one place, as ConvNeXt does; ``instance``: one
            channel of one image.
        groups: with ``group``, at most so many, with 4 channels each at least; the next smaller number that divides the
            channels of a layer.
        scope: names of modules, or patterns; ``null`` means all.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: there is none to swap; or one does not normalize maps, as those of transformers.

    Source: Wu and He, Group normalization, 2018, arXiv:1803.08494; Ulyanov et al., Instance normalization, 2016,
    arXiv:1607.08022; Ba et al., Layer normalization, 2016, arXiv:1607.06450.

    Example::

        edits: [{name: swap_norm, to: group, groups: 16}, weight_standardization]
    """

    def __init__(
        self,
        to: Norm = "group",
        groups: int = 32,
        scope: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope)
        self.check_arguments(groups=groups)
        self.to: Norm = to
        self.groups = groups
        self.images = in_channels, image_size

    @staticmethod
    def check_arguments(groups: int = 32, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any network."""
        if groups < 1:
            raise UserError(f"`groups` must be at least 1, got {groups}.")

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with the other normalization."""
        chosen = select_layers(network, self.scope, lambda _, m: isinstance(m, _NORMS), "normalization layer")
        given = probe(network, *self.images).outputs
        refuse_layers(
            [name for name in chosen if name in given and not given[name].is_map],
            "normalization layer",
            "what is normalized there is no map, (N, C, H, W), but features of places or tokens",
        )
        new = {m: self._new(m, given[name].shape[1]) for name, m in chosen.items() if name in given}
        return replace_modules(network, new)

    def _new(self, old: nn.Module, channels: int) -> nn.Module:
        norm = make_norm(self.to, channels, self.groups)
        for key in ("weight", "bias"):
            theirs = getattr(old, key, None)
            if isinstance(theirs, nn.Parameter) and theirs.shape == (channels,):
                setattr(norm, key, theirs)
        rest = [(key, part) for key, part in old.named_children() if type(part) is not nn.Identity]
        return nn.Sequential(OrderedDict([("norm", norm), *rest])) if rest else norm


@EDITS.register("weight_standardization")
class WeightStandardization(Edit):
    """Convolutions whose filters have mean 0 and variance 1 whatever their weights are; made for group normalization.

    The weights are those that were there; what the layers give has another scale, which a normalization behind them
    takes out again. Convolutions of one weight a filter, and those of gates, which see one place, are left out.

    Args:
        scope: names of modules, or patterns; ``null`` means all.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: there is no plain convolution.

    Source: Qiao et al., Micro-batch training with batch-channel normalization and weight standardization, 2019,
    arXiv:1903.10520.

    Example::

        edits: weight_standardization
    """

    def __init__(self, scope: Scope = None, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(scope)
        self.images = in_channels, image_size

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with standardized convolutions."""
        given = probe(network, *self.images).outputs

        def wanted(name: str, module: nn.Module) -> bool:
            if not isinstance(module, nn.Conv2d) or type(module) not in _STANDARDIZED:
                return False
            several = module.weight[0].numel() > 1
            return several and module.padding_mode == "zeros" and not _is_gate(name, given)

        chosen = select_layers(network, self.scope, wanted, "convolution whose weights can be standardized")
        return replace_modules(network, {old: _standardized(old) for old in chosen.values()})


def _standardized(old: Any) -> nn.Module:
    with torch.device("meta"):
        new: Any = _STANDARDIZED[type(old)](
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            old.stride,
            "same" if type(old) is Conv2dSame else old.padding,
            old.dilation,
            old.groups,
            old.bias is not None,
        )
    new.weight, new.bias = old.weight, old.bias
    standardized: nn.Module = new
    return standardized


def _is_gate(name: str, given: Mapping[str, LayerOutput]) -> bool:
    """Whether a layer sees one place inside something that gives larger maps, as in squeeze-and-excitation."""
    own, around = given.get(name), given.get(name.rpartition(".")[0])
    return (
        own is not None
        and around is not None
        and len(own.shape) == len(around.shape) == 4
        and own.shape[2:] == (1, 1) != around.shape[2:]
    )
