"""A blur before a network leaves out places, so that a shift of the image by a pixel does not change what it says."""

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
    """A blur where convolutions and maximum pools halve a map: places are averaged before every other one is left out.

    A 3x3 convolution or a maximum of stride 2 moves by 1, and a binomial filter of stride 2 follows it; a 1x1
    convolution of stride 2 moves by 1 behind such a filter. All weights stay. The filter stands before normalization
    and activation, which come after the convolution; at the border it repeats the last place.

    Args:
        size: the side of the filter: 3 or 5.
        scope: names of modules, or patterns; ``null`` means all but the first convolution, on whose large maps a blur
            costs most.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: nothing halves a map; or what does would give another size with a blur.

    Source: Zhang, Making convolutional networks shift-invariant again, 2019, arXiv:1904.11486.

    Example::

        edits: blur_pool
    """

    def __init__(
        self, size: Literal[3, 5] = 3, scope: Scope = None, in_channels: int = 3, image_size: int = 32
    ) -> None:
        super().__init__(scope)
        self.size = size
        self.images = in_channels, image_size

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with blurs."""
        first = next((name for name, m in network.named_modules() if isinstance(m, nn.Conv2d)), "")

        def wanted(name: str, module: nn.Module) -> bool:
            return _halves(module) and (self.scope is not None or name != first)

        chosen = select_layers(network, self.scope, wanted, "convolution or maximum pool that halves its maps")
        before = probe(network, *self.images).outputs
        changed = replace_modules(network, {old: self._blurred(old) for old in chosen.values()})
        after = probe(changed, *self.images).outputs
        refuse_layers(
            [name for name in chosen if name in before and before[name].shape != after[name].shape],
            "layer",
            "with a blur, maps of another size would come out there",
        )
        return changed

    def _blurred(self, layer: Any) -> nn.Module:
        blur: nn.Module = BlurPool2d(filt_size=self.size, pad_mode="replicate")  # reflection needs two places
        if isinstance(layer, nn.MaxPool2d):
            largest = nn.MaxPool2d(layer.kernel_size, 1, layer.padding, layer.dilation)
            return nn.Sequential(OrderedDict([("layer", largest), ("blur", blur)]))
        layer.stride = (1, 1)
        in_order = (
            [("blur", blur), ("layer", layer)] if layer.kernel_size == (1, 1) else [("layer", layer), ("blur", blur)]
        )
        return nn.Sequential(OrderedDict(in_order))


def _halves(module: nn.Module) -> bool:
    if isinstance(module, nn.MaxPool2d):
        return module.stride in (2, (2, 2)) and not module.return_indices
    return isinstance(module, nn.Conv2d) and module.stride == (2, 2) and all(k % 2 for k in module.kernel_size)
