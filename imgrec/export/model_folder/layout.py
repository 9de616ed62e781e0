"""The two layouts of a model folder: timm's own, for what timm can build, and the classifier's for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from imgrec.compress.surgery import surgery_of
from imgrec.models import BACKBONES, Classifier, ClassifierSpecs, LinearHead
from imgrec.models.backbones.timm import adapted_arguments, find
from imgrec.models.utils.forward import evaluating
from imgrec.registry import Spec
from imgrec.types import DataFacts

_NOT_THE_NETWORKS = ("pretrained", "weights", "in_channels", "image_size", "num_classes", "load_weights", "auxiliary")


@dataclass(frozen=True)
class Layout:
    """How a classifier's tensors stand in a model folder.

    ``architecture`` is timm's name without a tag, or the backbone's name; ``model_args`` are timm's arguments beside
    it. ``classifier`` and ``first_conv`` are the names of two layers in timm's network, ``None`` in our own layout.
    """

    architecture: str
    state: dict[str, Tensor]
    model_args: dict[str, Any]
    classifier: str | None = None
    first_conv: str | None = None

    @property
    def is_timm(self) -> bool:
        """Whether timm itself can load the folder."""
        return self.classifier is not None


def own_arguments(backbone: Spec) -> dict[str, Any]:
    """The keyword arguments in a backbone's spec that are the network's own."""
    return {k: v for k, v in BACKBONES.parse(backbone)[1].items() if k not in _NOT_THE_NETWORKS}


def layout_of(classifier: Classifier, specs: ClassifierSpecs, facts: DataFacts) -> Layout:
    """The layout of timm where its network gives the same logits from the same tensors, as is tried; else our own."""
    name, _ = BACKBONES.parse(specs.backbone)
    ours = bool(surgery_of(classifier)) or not specs.is_plain
    plain = None if ours else _timm_layout(classifier, name, own_arguments(specs.backbone), facts)
    return plain or Layout(architecture=name, state=_on_cpu(classifier.state_dict()), model_args={})


def to_timm(state: Mapping[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """The classifier's tensors under timm's keys; mean and standard deviation stand in timm's config."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("backbone.network."):
            renamed[key.removeprefix("backbone.network.")] = value
        elif key.startswith("head.linear."):
            renamed[f"{classifier}.{key.removeprefix('head.linear.')}"] = value
    return renamed


def from_timm(state: Mapping[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """The inverse of :func:`to_timm`."""
    head = f"{classifier}."
    return {
        f"head.linear.{k.removeprefix(head)}" if k.startswith(head) else f"backbone.network.{k}": v
        for k, v in state.items()
    }


def linear_name(network: nn.Module) -> str | None:
    """The name of the one linear layer that is a timm network's whole classifier, or ``None``."""
    last = network.get_classifier() if hasattr(network, "get_classifier") else None  # type: ignore[operator]
    if not isinstance(last, nn.Linear) or last.bias is None:
        return None
    found: str = next(name for name, module in network.named_modules() if module is last)
    return found


def _timm_layout(classifier: Classifier, name: str, own: dict[str, Any], facts: DataFacts) -> Layout | None:
    if find(name) is None or type(classifier.head) is not LinearHead:
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
    if not agree(classifier, full, facts):
        return None
    return Layout(architecture, state, arguments, last, _first_conv(full))


def agree(classifier: Classifier, full: nn.Module, facts: DataFacts) -> bool:
    """Whether timm's ``full`` network gives the classifier's logits for an image of noise that is normalized for it."""
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
