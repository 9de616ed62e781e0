"""Replacement of dense convolutions by depthwise-separable ones."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn

from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import replace_modules, select_layers
from imgrec.models.utils.patterns import Scope


def nearest_separable(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the depthwise and pointwise weights whose product is nearest to the weights of a dense convolution.

    The weights from one input channel to all output channels form a matrix. Its nearest matrix of rank 1 belongs to its
    largest singular value, whose square root scales both factors.

    Shapes: ``(out, in, h, w)`` to ``(in, 1, h, w)`` and ``(out, in, 1, 1)``.

    Source: Eckart and Young, The approximation of one matrix by another of lower rank, 1936, 10.1007/BF02288367.

    >>> depthwise, pointwise = nearest_separable(torch.ones(4, 2, 3, 3))
    >>> torch.allclose(pointwise * depthwise.transpose(0, 1), torch.ones(4, 2, 3, 3))
    True
    """
    outputs, inputs, height, width = weight.shape
    left, sizes, right = torch.linalg.svd(weight.detach().float().transpose(0, 1).flatten(2), full_matrices=False)
    share = sizes[:, :1].sqrt()
    depthwise = (right[:, 0] * share).view(inputs, 1, height, width)
    pointwise = (left[:, :, 0] * share).t().reshape(outputs, inputs, 1, 1)
    return depthwise.to(weight.dtype), pointwise.to(weight.dtype)


@EDITS.register("separable")
class Separable(Edit):
    """Depthwise-separable convolutions instead of dense ones of 3x3 or more.

    Each is a filter per channel and then a 1x1 convolution, without a normalization or an activation between them. They
    need almost nine times fewer multiplications and weights than a 3x3 convolution.

    Args:
        weights: Initial weights. ``random`` draws them. ``nearest`` approximates the present weights, for example
            pretrained ones, by a singular value decomposition. Both require training. Defaults to ``random``.
        scope: Names or patterns of modules. Defaults to all except the first convolution, which has few input channels.

    Raises:
        UserError: If there is no dense convolution of 3x3 or more.

    Source: Chollet, Xception: deep learning with depthwise separable convolutions, 2016, arXiv:1610.02357; Howard et
    al., MobileNets, 2017, arXiv:1704.04861.

    Example::

        edits: {name: separable, weights: nearest, scope: [layer3, layer4]}

    >>> list(Separable(scope="0")(nn.Sequential(nn.Conv2d(4, 8, 3)))[0]._modules)
    ['depthwise', 'pointwise']
    """

    def __init__(self, weights: Literal["random", "nearest"] = "random", scope: Scope = None) -> None:
        super().__init__(scope)
        self.weights = weights

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with separable convolutions."""
        first = next((name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), "")

        def is_replaced(name: str, module: nn.Module) -> bool:
            return _is_dense(module) and (self.scope is not None or name != first)

        selected = select_layers(network, self.scope, is_replaced, "dense convolution of 3x3 or more")
        return replace_modules(network, {m: self._separated(m) for m in selected.values() if isinstance(m, nn.Conv2d)})

    def _separated(self, old: nn.Conv2d) -> nn.Module:
        depthwise = type(old)(
            old.in_channels,
            old.in_channels,
            old.kernel_size,  # type: ignore[arg-type]
            old.stride,  # type: ignore[arg-type]
            old.padding,  # type: ignore[arg-type]
            old.dilation,  # type: ignore[arg-type]
            groups=old.in_channels,
            bias=False,
        )
        pointwise = nn.Conv2d(old.in_channels, old.out_channels, 1, bias=old.bias is not None)
        with torch.no_grad():
            if self.weights == "nearest":
                for layer, weight in zip((depthwise, pointwise), nearest_separable(old.weight), strict=True):
                    layer.weight.copy_(weight)
            else:  # the first preserves the variance, the second compensates the half that a ReLU removes
                nn.init.kaiming_normal_(depthwise.weight, nonlinearity="linear")
                nn.init.kaiming_normal_(pointwise.weight, nonlinearity="relu")
            if old.bias is not None and pointwise.bias is not None:
                pointwise.bias.copy_(old.bias)
        return nn.Sequential(OrderedDict([("depthwise", depthwise), ("pointwise", pointwise)]))


def _is_dense(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and type(module) in (nn.Conv2d, Conv2dSame)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and min(module.kernel_size) >= 3
        and module.stride[0] < module.kernel_size[0]  # a patch embedding is no dense convolution
    )
