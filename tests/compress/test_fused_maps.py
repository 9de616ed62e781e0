"""Compression and export of networks with a neck and another pooling."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from imgrec.compress import prune_channels, rebuild, surgery_of
from imgrec.compress.profiling import count_macs
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.errors import UserError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.export.export_network import export_onnx
from imgrec.models import ClassifierSpecs
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=32)
BACKBONE: dict[str, Any] = {"name": "cifar_resnet", "depth": 8, "widths": [8, 12, 16]}
NECKS: list[dict[str, Any]] = [
    {"neck": {"name": "pan", "channels": 12}, "pooling": "gem"},
    {"neck": {"name": "bifpn", "channels": 12, "layers": 1}, "pooling": "average_max"},
]


def images() -> Tensor:
    return torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def specs(**parts: Any) -> ClassifierSpecs:
    torch.manual_seed(0)
    return ClassifierSpecs(BACKBONE, normalize="half", **parts)


@pytest.mark.slow
@pytest.mark.parametrize("parts", NECKS, ids=lambda parts: parts["neck"]["name"])
def test_channels_are_pruned_through_the_neck(parts: dict[str, Any], tmp_path: Path) -> None:
    selected = specs(**parts)
    model = selected.build(FACTS).eval()
    before = model.feature_dim
    report = prune_channels(model, images(), {"macs": 0.5})
    narrower = {name for name, (old, new) in report.widths.items() if new < old}
    assert any(name.startswith("neck.") for name in narrower)
    assert any(name.startswith("backbone.") for name in narrower)
    with torch.no_grad():
        logits = model(images())
        assert model.feature_dim == model.forward_features(images()).shape[1] < before
        again: Any = rebuild(selected.build(FACTS).eval(), surgery_of(model))
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(images()), logits)
        assert again.feature_dim == model.feature_dim
        folder = save_model_folder(tmp_path / "model", model, selected, FACTS)
        assert torch.equal(load_model_folder(folder)[0](images()), logits)


@pytest.mark.slow
def test_a_neck_is_quantized() -> None:
    model = specs(**NECKS[0]).build(FACTS).eval()
    with torch.no_grad():
        expected, features = model(images()), model.forward_features(images())
    quantized = QuantizedClassifier(model, 3, 32)
    quantized.calibrate(images())
    with torch.no_grad():
        found = quantized.eval()(images())
    assert quantized.float_layers == {}
    assert not torch.equal(found, expected)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert quantized.features(images()).pooled.shape == features.shape
    quantized.train()(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in quantized.parameters())


@pytest.mark.slow
def test_an_export_with_a_neck_has_the_same_logits(tmp_path: Path) -> None:
    model = specs(neck={"name": "concat", "channels": 16}, pooling="attention").build(FACTS).eval()
    export = export_onnx(model, FACTS, tmp_path / "onnx")
    assert export.logits_max_difference < 1e-4


def test_channels_before_attention_pooling_are_not_pruned() -> None:
    pytest.importorskip("torch_pruning")
    model = specs(pooling="attention").build(FACTS).eval()
    with pytest.raises(UserError, match="pooling: expected average, max or gem"):
        prune_channels(model, images(), {"macs": 0.5})
    assert surgery_of(model) == []
    with torch.no_grad():
        assert count_macs(model, images()) > count_macs(specs().build(FACTS), images())
