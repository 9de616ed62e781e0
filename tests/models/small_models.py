"""Small models and facts for the tests of models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imgrec.models import BACKBONES, CifarResNet, Classifier, ClassifierSpecs
from imgrec.types import DataFacts

RESNET: dict[str, Any] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
GRAY_FACTS = DataFacts(tuple("0123456789"), (1,) * 10, image_size=16, channels=1)


def make_facts(num_classes: int = 4, image_size: int = 32, channels: int = 3) -> DataFacts:
    """Return facts of a data set with one image per class."""
    names = tuple(f"class {i}" for i in range(num_classes))
    return DataFacts(names, (1,) * num_classes, image_size=image_size, channels=channels)


def small_resnet() -> CifarResNet:
    """Return a residual network of three blocks."""
    torch.manual_seed(0)
    return CifarResNet(3, (16, 16, 32), 1)


def meta_network(name: str, **arguments: object) -> nn.Module:
    """Return a network for images of 64 pixels on the meta device."""
    with torch.device("meta"):
        return BACKBONES.build({"name": name, **arguments}, image_size=64, num_classes=4, load_weights=False).network


def randomize_batch_norms(model: nn.Module) -> nn.Module:
    """Set random statistics, scales and shifts of all batch normalizations."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model


def edited_classifier(backbone: dict[str, Any], edits: Any = None, trained: bool = False) -> Classifier:
    """Return a classifier for gray images, with random trainable parameters if ``trained`` is set."""
    torch.manual_seed(0)
    model = ClassifierSpecs(backbone, "linear", "half", edits=edits).build(GRAY_FACTS).eval()
    if trained:
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1)
    return model


def gray_images() -> Tensor:
    """Return three random gray images of 16 pixels."""
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
