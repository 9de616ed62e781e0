"""Blur before subsampling, which makes a network less sensitive to a shift of the image by one pixel."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

from timm.layers.blur_pool import BlurPool2d
from torch import nn

from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import refuse_layers, replace_modules, select_layers
from imgrec.models.utils.patterns import Scope
from imgrec.models.utils.probe import probe


@EDITS.register("blur_pool")
class BlurPool(Edit):
    """Anti-aliased subsampling: a binomial blur before every convolution and maximum pooling halves a map.

    A convolution of 3x3 or more, or a maximum pooling, of stride 2 receives stride 1. A binomial filter of stride 2
    follows it. A 1x1 convolution of stride 2 receives stride 1 after such a filter. Weights are unchanged. The filter
    precedes the normalization and activation that follow the convolution. At the border it repeats the outermost
    values.

    Args:
        size: Size of the filter, 3 or 5. Defaults to 3.
        scope: Names or patterns of modules. Defaults to all except the first convolution, whose maps are the largest
            and the most expensive to blur.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If no layer halves a map, or if the size of a map would change.

    Source: Zhang, Making convolutional networks shift-invariant again, 2019, arXiv:1904.11486.

    Example::

        edits: blur_pool

    >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(2))
    >>> list(BlurPool(scope="1", image_size=8)(network)[1]._modules)
    ['layer', 'blur']
    """

    def __init__(
        self, size: Literal[3, 5] = 3, scope: Scope = None, in_channels: int = 3, image_size: int = 32
    ) -> None:
        super().__init__(scope)
        self.size = size
        self.image_format = in_channels, image_size

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with blurs."""
        first = next((name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), "")

        def is_blurred(name: str, module: nn.Module) -> bool:
            return _halves_map(module) and (self.scope is not None or name != first)

        selected = select_layers(network, self.scope, is_blurred, "convolution or maximum pooling that halves its maps")
        before = probe(network, *self.image_format).outputs
        changed = replace_modules(network, {old: self._with_blur(old) for old in selected.values()})
        after = probe(changed, *self.image_format).outputs
        refuse_layers(
            [name for name in selected if name in before and before[name].shape != after[name].shape],
            "layer",
            "a blur would change the size of its maps",
        )
        return changed

    def _with_blur(self, layer: Any) -> nn.Module:
        blur: nn.Module = BlurPool2d(filt_size=self.size, pad_mode="replicate")  # reflection needs two positions
        if isinstance(layer, nn.MaxPool2d):
            dense = nn.MaxPool2d(layer.kernel_size, 1, layer.padding, layer.dilation)
            return nn.Sequential(OrderedDict([("layer", dense), ("blur", blur)]))
        layer.stride = (1, 1)
        layers = [("layer", layer), ("blur", blur)]
        return nn.Sequential(OrderedDict(layers[::-1] if layer.kernel_size == (1, 1) else layers))


def _halves_map(module: nn.Module) -> bool:
    if isinstance(module, nn.MaxPool2d):
        return module.stride in (2, (2, 2)) and not module.return_indices
    return isinstance(module, nn.Conv2d) and module.stride == (2, 2) and all(k % 2 for k in module.kernel_size)
