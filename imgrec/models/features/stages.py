"""Stages of networks that call their layers one after the other, and the maps after each stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torchvision.models as zoo
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.utils.forward import evaluating

Stages = tuple[tuple[str, ...], ...]
"""Names of the modules of each stage, in the order of their calls."""

_LAYERS: dict[type[nn.Module], tuple[str, ...]] = {
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
"""Layers before the pooling, in the order of their calls. ``*`` stands for all children."""

_PIXELS = 224
"""Height and width of the image for which the stages are determined."""


def find_stages(network: nn.Module) -> Stages | None:
    """Return the stages of ``stage_modules`` or of a network of torchvision, or ``None`` for other networks.

    Raises:
        UserError: If the stages of a network of torchvision cannot be separated.
    """
    stages: Any = getattr(network, "stage_modules", None)
    if stages is None and type(network).__module__.startswith("torchvision.models"):
        stages = torchvision_stages(network)
    return tuple(tuple(stage) for stage in stages) if stages is not None else None


def run_stages(network: nn.Module, stages: Stages, images: Tensor, levels: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the maps after the stages ``levels``, ascending, or without levels the input of the pooling.

    If the network multiplies its pooled features by its ``scale``, the input of the pooling is multiplied instead.

    >>> network = nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2))
    >>> [tuple(each.shape[2:]) for each in run_stages(network, (("0",), ("1", "2")), torch.zeros(1, 1, 16, 16), [0, 1])]
    [(8, 8), (2, 2)]
    """
    last = max(levels, default=len(stages) - 1)
    maps = []
    for number, stage in enumerate(stages[: last + 1]):
        for name in stage:
            images = network.get_submodule(name)(images)
        if number in levels:
            maps.append(images)
    if levels:
        return tuple(maps)
    scale: Any = getattr(network, "scale", None)
    return (images * scale if isinstance(scale, float) else images,)


def torchvision_stages(network: nn.Module) -> Stages:
    """Return the layers of a network of torchvision in stages. A stage begins with a layer that reduces the map.

    Raises:
        UserError: If the network does more than to call its layers one after the other.

    >>> stages = torchvision_stages(zoo.resnet18())
    >>> len(stages), stages[0], stages[1]
    (5, ('conv1', 'bn1', 'relu'), ('maxpool', 'layer1'))
    """
    layers = next((layers for kind, layers in _LAYERS.items() if isinstance(network, kind)), None)
    if layers is None:
        raise UserError(
            f"the stages of {type(network).__name__} of torchvision cannot be separated, because it does more than to "
            "call its layers one after the other. Use the network of timm instead."
        )
    names = [name for each in layers for name in _children(network, each)]
    stages: list[tuple[str, ...]] = []
    before = 0
    for name, height in zip(names, _heights(network, names), strict=True):
        if height != before:
            stages.append(())
        stages[-1] = (*stages[-1], name)
        before = height
    return tuple(stages)


def _children(network: nn.Module, name: str) -> list[str]:
    if not name.endswith(".*"):
        return [name]
    parent = name.removesuffix(".*")
    return [f"{parent}.{child}" for child, _ in network.get_submodule(parent).named_children()]


def _heights(network: nn.Module, names: list[str]) -> list[int]:
    """Return the height of the output of each layer."""
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
        output: Tensor = torch.func.functional_call(module, tensors, (images,))
    return output
