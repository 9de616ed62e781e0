"""The stages of torchvision's networks, which do not say themselves where they could be left."""

from __future__ import annotations

import torch
import torchvision.models as zoo
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.utils.forward import evaluating

_IN_ORDER: dict[type[nn.Module], tuple[str, ...]] = {
    zoo.ResNet: ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    zoo.RegNet: ("stem", "trunk_output.*"),
    zoo.ShuffleNetV2: ("conv1", "maxpool", "stage2", "stage3", "stage4", "conv5"),
    zoo.MNASNet: ("layers.*",),
    zoo.AlexNet: ("features.*",),
    zoo.VGG: ("features.*",),
    zoo.SqueezeNet: ("features.*",),
    zoo.MobileNetV2: ("features.*",),
    zoo.MobileNetV3: ("features.*",),
    zoo.EfficientNet: ("features.*",),
    zoo.ConvNeXt: ("features.*",),
}
"""What each runs one after the other before its pooling; ``*`` means all children."""

_PIXELS = 224
"""The side of the image on which the stages are told apart, where a network takes images of any size."""


def torchvision_stages(network: nn.Module) -> tuple[tuple[str, ...], ...]:
    """A network's layers in stages: a new one begins with the layer that makes the maps smaller.

    Raises:
        UserError: the network does more between its layers than to call one after the other.

    >>> stages = torchvision_stages(zoo.resnet18())
    >>> len(stages), stages[0], stages[1]
    (5, ('conv1', 'bn1', 'relu'), ('maxpool', 'layer1'))
    """
    order = next((order for kind, order in _IN_ORDER.items() if isinstance(network, kind)), None)
    if order is None:
        raise UserError(
            f"torchvision's {type(network).__name__} does more than to run one layer after the other, and so cannot be "
            "left at its stages; timm's networks can, and most architectures are there, too"
        )
    names = [name for each in order for name in _children(network, each)]
    stages: list[tuple[str, ...]] = []
    before = 0
    for name, size in zip(names, _sizes(network, names), strict=True):
        if size != before:
            stages.append(())
        stages[-1] = (*stages[-1], name)
        before = size
    return tuple(stages)


def _children(network: nn.Module, name: str) -> list[str]:
    if not name.endswith(".*"):
        return [name]
    holder = name.removesuffix(".*")
    return [f"{holder}.{child}" for child, _ in network.get_submodule(holder).named_children()]


def _sizes(network: nn.Module, names: list[str]) -> list[int]:
    """The height of what each layer gives."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    images = torch.empty(1, first.in_channels, _PIXELS, _PIXELS, device="meta")
    found = []
    with evaluating(network):
        for name in names:
            images = _run(network.get_submodule(name), images)
            found.append(images.shape[2])
    return found


def _run(module: nn.Module, images: Tensor) -> Tensor:
    tensors = {n: t.detach().to("meta") for n, t in (*module.named_parameters(), *module.named_buffers())}
    with torch.no_grad():
        given: Tensor = torch.func.functional_call(module, tensors, (images,))
    return given
