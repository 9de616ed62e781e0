"""Model folders, exports, pruning and quantization of classifiers with edited layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imgrec import ClassificationTask
from imgrec.compress.pruning.channels import prune_channels
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.errors import UserError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.export.export_network import export_onnx
from imgrec.export.model_folder.load import read_model_folder
from imgrec.models import Classifier, ClassifierSpecs
from imgrec.types import DataFacts

TINY = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [16, 16, 32, 32], "stem_width": 16}
FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), 32, 3)
EDITS: list[Any] = [
    {"name": "se", "scope": "layer[12]"},
    {"name": "cbam", "kernel_size": 3, "scope": "layer4"},
    {"name": "eca", "scope": "layer3"},
    {"name": "swap_activation", "to": "silu"},
    {"name": "swap_norm", "to": "group", "scope": "layer1"},
    {"name": "separable", "scope": "layer2"},
    "weight_standardization",
    "blur_pool",
    {"name": "dropblock", "size": 3},
]
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def built(edits: Any) -> tuple[Classifier, ClassifierSpecs]:
    torch.manual_seed(0)
    specs = ClassifierSpecs(TINY, "linear", "half", edits=edits, init="he_normal")
    classifier = specs.build(FACTS)
    classifier.train()(IMAGES)  # updates the running statistics
    return classifier.eval(), specs


def test_a_model_folder_with_edits_is_rebuilt(tmp_path: Path) -> None:
    classifier, specs = built(EDITS)
    save_model_folder(tmp_path / "model", classifier, specs, FACTS)
    own = json.loads((tmp_path / "model" / "config.json").read_text())["imgrec"]
    assert own["specs"]["edits"] == EDITS
    assert "init" not in own["specs"]
    loaded, _ = load_model_folder(tmp_path / "model")
    assert torch.equal(loaded(IMAGES), classifier(IMAGES))
    again = read_model_folder(tmp_path / "model").specs
    assert again.edits == EDITS


def test_a_network_with_a_parameter_free_edit_is_not_stored_as_timm(tmp_path: Path) -> None:
    classifier, specs = built({"name": "swap_activation", "to": "relu6"})  # the same logits for most images
    save_model_folder(tmp_path / "model", classifier, specs, FACTS)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["imgrec"]["layout"] == "classifier"


def test_timm_loads_a_network_with_another_initialization(tmp_path: Path) -> None:
    classifier, specs = built(None)
    save_model_folder(tmp_path / "model", classifier, specs, FACTS)
    own = json.loads((tmp_path / "model" / "config.json").read_text())["imgrec"]
    assert (own["layout"], own["version"]) == ("timm", 1)


def test_edits_of_a_folder_cannot_call_functions(tmp_path: Path) -> None:
    classifier, specs = built("se")
    save_model_folder(tmp_path / "model", classifier, specs, FACTS)
    file = tmp_path / "model" / "config.json"
    config = json.loads(file.read_text())
    config["imgrec"]["specs"]["edits"] = [{"name": "os.system"}]
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r'expected the name of a registered edit, got "os\.system"'):
        load_model_folder(tmp_path / "model")


def test_hyper_parameters_contain_the_edits_and_init_from_requires_the_same(tmp_path: Path) -> None:
    classifier, specs = built(EDITS)
    save_model_folder(tmp_path / "model", classifier, specs, FACTS)
    place = str(tmp_path / "model")
    start: dict[str, Any] = {"backbone": TINY, "normalize": "half", "facts": FACTS.to_dict(), "init_from": place}
    task = ClassificationTask(**start, edits=EDITS)
    task.configure_model()
    assert torch.equal(task.eval()(IMAGES), classifier(IMAGES))
    assert task.hparams["edits"] == EDITS
    with pytest.raises(UserError, match=r"holds a classifier with the edits .*, model\.edits is None"):
        ClassificationTask(**start)
    with pytest.raises(UserError, match=r"model\.init: expected no initializer, because model\.init_from loads all"):
        ClassificationTask(**start, edits=EDITS, init="he_normal")


def test_onnx_matches_the_edited_model(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    classifier, _ = built(EDITS)
    assert export_onnx(classifier, FACTS, tmp_path / "onnx").logits_max_difference < 1e-4


def test_channels_are_pruned_with_edits() -> None:
    pytest.importorskip("torch_pruning")
    classifier, _ = built([{"name": "se"}, {"name": "swap_norm", "to": "group", "scope": "layer1"}, "blur_pool"])
    before = sum(p.numel() for p in classifier.parameters())
    prune_channels(classifier, IMAGES, {"macs": 0.6})
    assert sum(p.numel() for p in classifier.parameters()) < 0.8 * before
    assert torch.isfinite(classifier(IMAGES)).all()


def test_quantization_supports_edits_and_refuses_random_layers() -> None:
    plain = [edit for edit in EDITS if not isinstance(edit, dict) or edit["name"] != "dropblock"]
    classifier, _ = built(plain)
    expected = classifier(IMAGES)
    rounded = QuantizedClassifier(classifier, 3, 32)
    rounded.calibrate(IMAGES)
    difference = (rounded.eval()(IMAGES) - expected).abs().max()
    assert float(difference.detach()) < 0.1 * float(expected.abs().max().detach())
    assert any(isinstance(module, nn.GroupNorm) for module in rounded.modules())
    with pytest.raises(UserError, match=r"draws random numbers .*Set drop_path_rate or a similar argument to 0"):
        QuantizedClassifier(built({"name": "stochastic_depth", "rate": 0.2})[0], 3, 32)
