"""Layouts of the tensors in a model folder: that of timm, or that of a classifier if timm cannot build the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from imgrec.compress.surgery import surgery_of
from imgrec.models import BACKBONES, Classifier, ClassifierSpecs, LinearHead
from imgrec.models.backbones.timm import adapted_arguments, find_timm_backbone
from imgrec.models.utils.forward import evaluating
from imgrec.registry import Spec
from imgrec.types import DataFacts

_NOT_OF_THE_NETWORK = ("pretrained", "weights", "in_channels", "image_size", "num_classes", "load_weights", "auxiliary")


@dataclass(frozen=True)
class TensorLayout:
    """Layout of the tensors of a classifier in a model folder.

    Attributes:
        architecture: Name in timm without a tag, or name of the backbone.
        state: Tensors by name.
        model_args: Further arguments of timm.
        classifier: Name of the last layer in the network of timm, or ``None`` in the layout of imgrec.
        first_conv: Name of the first convolution in the network of timm, or ``None``.
    """

    architecture: str
    state: dict[str, Tensor]
    model_args: dict[str, Any]
    classifier: str | None = None
    first_conv: str | None = None

    @property
    def is_timm(self) -> bool:
        """True if timm can load the folder."""
        return self.classifier is not None


def network_arguments(backbone: Spec) -> dict[str, Any]:
    """Return the keyword arguments in the spec of a backbone that the network itself receives."""
    return {k: v for k, v in BACKBONES.parse(backbone)[1].items() if k not in _NOT_OF_THE_NETWORK}


def select_layout(classifier: Classifier, specs: ClassifierSpecs, facts: DataFacts) -> TensorLayout:
    """Return the layout of timm if its network computes the same logits from the same tensors, otherwise imgrec's."""
    name, _ = BACKBONES.parse(specs.backbone)
    ours = bool(surgery_of(classifier)) or not specs.is_plain
    plain = None if ours else _timm_layout(classifier, name, network_arguments(specs.backbone), facts)
    return plain or TensorLayout(architecture=name, state=_on_cpu(classifier.state_dict()), model_args={})


def to_timm(state: Mapping[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """Return the tensors of a classifier under the keys of timm. Mean and std are left to the config of timm."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("backbone.network."):
            renamed[key.removeprefix("backbone.network.")] = value
        elif key.startswith("head.linear."):
            renamed[f"{classifier}.{key.removeprefix('head.linear.')}"] = value
    return renamed


def from_timm(state: Mapping[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """Return the tensors of timm under the keys of a classifier. Inverse of :func:`to_timm`."""
    head = f"{classifier}."
    return {
        f"head.linear.{k.removeprefix(head)}" if k.startswith(head) else f"backbone.network.{k}": v
        for k, v in state.items()
    }


def linear_name(network: nn.Module) -> str | None:
    """Return the name of the classifier of a timm network, or ``None`` if it is not one linear layer with bias."""
    last = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(last, nn.Linear) or last.bias is None:
        return None
    found: str = next(name for name, module in network.named_modules() if module is last)
    return found


def _timm_layout(classifier: Classifier, name: str, own: dict[str, Any], facts: DataFacts) -> TensorLayout | None:
    if find_timm_backbone(name) is None or type(classifier.head) is not LinearHead:
        return None
    architecture = name.partition(".")[0]
    arguments = adapted_arguments(name, facts.channels, facts.image_size, own)
    with torch.random.fork_rng(devices=[]):
        full: nn.Module = timm.create_model(architecture, num_classes=facts.num_classes, **arguments)
    last = linear_name(full)
    if last is None:
        return None
    state = to_timm(_on_cpu(classifier.state_dict()), last)
    own_shapes = {k: v.shape for k, v in full.state_dict().items()}
    if own_shapes != {k: v.shape for k, v in state.items()}:
        return None
    full.load_state_dict(state)
    if not has_same_logits(classifier, full, facts):
        return None
    return TensorLayout(architecture, state, arguments, last, _first_conv(full))


def has_same_logits(classifier: Classifier, full: nn.Module, facts: DataFacts) -> bool:
    """Return True if a timm network computes the logits of a classifier for a random image.

    Args:
        classifier: Classifier, which normalizes the image itself.
        full: Network of timm with its last layer. It receives the normalized image.
        facts: Facts of the data.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, facts.channels, facts.image_size, facts.image_size, generator=generator)
    mean = classifier.mean
    full = full.to(mean.device, mean.dtype).eval()
    with evaluating(classifier), torch.no_grad():
        normalized = classifier.normalize(images.to(mean.device))
        return torch.allclose(
            classifier(images.to(mean.device)), full(normalized), rtol=1e-3, atol=1e-4, equal_nan=True
        )


def _first_conv(full: nn.Module) -> str | None:
    named: Any = full.pretrained_cfg.get("first_conv")  # type: ignore[operator, union-attr]
    layers = dict(full.named_modules())
    if isinstance(named, str) and isinstance(layers.get(named), nn.Conv2d):
        return named
    return next((n for n, module in layers.items() if isinstance(module, nn.Conv2d)), None)


def _on_cpu(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in state.items()}
