"""Replacement of normalization layers, and weight standardization."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm import LayerNorm2d, RmsNorm, RmsNorm2d
from timm.layers.std_conv import StdConv2d, StdConv2dSame
from torch import nn

from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import refuse_layers, replace_modules, select_layers
from imgrec.models.utils.patterns import Scope
from imgrec.models.utils.probe import LayerOutput, probe
from imgrec.utils.ranges import PositiveInt, check_ranges

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, RmsNorm, RmsNorm2d)

_STANDARDIZED: dict[type[nn.Module], Any] = {nn.Conv2d: StdConv2d, Conv2dSame: StdConv2dSame}

Norm = Literal["batch", "group", "layer", "layer2d", "instance"]


def make_norm(kind: Norm, channels: int, groups: int = 32) -> nn.Module:
    """Return a normalization of maps ``(N, C, H, W)`` with a scale and a shift per channel.

    The number of groups is the largest divisor of ``channels`` that is at most ``groups`` and leaves at least 4
    channels per group.

    >>> [make_norm("group", channels).num_groups for channels in (256, 48, 6)]
    [32, 12, 1]
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.InstanceNorm2d(channels, affine=True)
    if kind == "layer2d":
        per_position: nn.Module = LayerNorm2d(channels)
        return per_position
    # at least 4 channels per group, because a map may have one position only
    max_groups = 1 if kind == "layer" else max(1, min(groups, channels // 4))
    return nn.GroupNorm(next(g for g in range(max_groups, 0, -1) if channels % g == 0), channels)


@EDITS.register("swap_norm")
class SwapNorm(Edit):
    """Replacement of normalization layers, for example group normalization for small batches.

    The scale and shift of each channel are kept. Running statistics are reset. A layer that normalizes and activates
    keeps its activation.

    Args:
        to: Values that are normalized together. ``batch``: one channel of all images. ``group``: a group of channels of
            one image. ``layer``: all channels of one image. ``layer2d``: all channels at one position, as in ConvNeXt.
            ``instance``: one channel of one image. Defaults to ``group``.
        groups: Maximum number of groups with ``to: group``, at least 1. The number used divides the channels of a layer
            and leaves at least 4 channels per group. Defaults to 32.
        scope: Names or patterns of modules. Defaults to the whole network.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If there is no layer to replace, or if one does not normalize maps, as in transformers.

    See Also:
        :class:`WeightStandardization`, which is used together with group normalization.

    Source: Wu and He, Group normalization, 2018, arXiv:1803.08494; Ulyanov et al., Instance normalization, 2016,
    arXiv:1607.08022; Ba et al., Layer normalization, 2016, arXiv:1607.06450.

    Example::

        edits: [{name: swap_norm, to: group, groups: 16}, weight_standardization]

    >>> SwapNorm("group", image_size=8)(nn.Sequential(nn.Conv2d(3, 16, 1), nn.BatchNorm2d(16)))[1].num_groups
    4
    """

    @check_ranges
    def __init__(
        self,
        to: Norm = "group",
        groups: PositiveInt = 32,
        scope: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope)
        self.to: Norm = to
        self.groups = groups
        self.image_format = in_channels, image_size

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with the new normalization."""
        selected = select_layers(network, self.scope, lambda _, m: isinstance(m, _NORMS), "normalization layer")
        outputs = probe(network, *self.image_format).outputs
        refuse_layers(
            [name for name in selected if name in outputs and not outputs[name].is_map],
            "normalization layer",
            "it normalizes no map (N, C, H, W) but features of positions or tokens",
        )
        new = {m: self._new(m, outputs[name].shape[1]) for name, m in selected.items() if name in outputs}
        return replace_modules(network, new)

    def _new(self, old: nn.Module, channels: int) -> nn.Module:
        norm = make_norm(self.to, channels, self.groups)
        for key in ("weight", "bias"):
            parameter = getattr(old, key, None)
            if isinstance(parameter, nn.Parameter) and parameter.shape == (channels,):
                setattr(norm, key, parameter)
        rest = [(key, part) for key, part in old.named_children() if type(part) is not nn.Identity]
        return nn.Sequential(OrderedDict([("norm", norm), *rest])) if rest else norm


@EDITS.register("weight_standardization")
class WeightStandardization(Edit):
    """Convolutions with standardized filters, which have mean 0 and variance 1, for use with group normalization.

    Weights are kept. The outputs of the layers have another scale, which a following normalization removes.
    Convolutions with one weight per filter and those of gates, which see one position, are not changed.

    Args:
        scope: Names or patterns of modules. Defaults to the whole network.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If there is no plain convolution.

    See Also:
        :class:`imgrec.models.WeightNorm`. Use it instead in networks without normalization.

    Source: Qiao et al., Micro-batch training with batch-channel normalization and weight standardization, 2019,
    arXiv:1903.10520.

    Example::

        edits: weight_standardization

    >>> type(WeightStandardization(image_size=8)(nn.Sequential(nn.Conv2d(3, 4, 3)))[0]).__name__
    'StdConv2d'
    """

    def __init__(self, scope: Scope = None, in_channels: int = 3, image_size: int = 32) -> None:
        super().__init__(scope)
        self.image_format = in_channels, image_size

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with standardized convolutions."""
        outputs = probe(network, *self.image_format).outputs

        def can_standardize(name: str, module: nn.Module) -> bool:
            if not isinstance(module, nn.Conv2d) or type(module) not in _STANDARDIZED:
                return False
            has_several_weights = module.weight[0].numel() > 1
            return has_several_weights and module.padding_mode == "zeros" and not _is_gate(name, outputs)

        selected = select_layers(network, self.scope, can_standardize, "convolution whose weights can be standardized")
        return replace_modules(network, {old: _standardized(old) for old in selected.values()})


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


def _is_gate(name: str, outputs: Mapping[str, LayerOutput]) -> bool:
    """Return True if a layer sees one position inside a module with larger maps, as in squeeze-and-excitation."""
    inner, outer = outputs.get(name), outputs.get(name.rpartition(".")[0])
    return (
        inner is not None
        and outer is not None
        and len(inner.shape) == len(outer.shape) == 4
        and inner.shape[2:] == (1, 1) != outer.shape[2:]
    )
