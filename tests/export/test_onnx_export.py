"""Exports: content, agreement with PyTorch, and refused input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import imgrec.export.verify
from imgrec.errors import UserError
from imgrec.export.export_folder import read_export
from imgrec.export.export_network import export_onnx, export_openvino
from imgrec.export.runtimes.registry import open_runtime
from imgrec.models import Classifier, build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=16, eval_transforms=("resize", "center_crop"))
TINY = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}


def built(backbone: Any, facts: DataFacts = FACTS) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_classifier(backbone, "linear", "imagenet", facts)


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    return built(TINY)


@pytest.fixture(scope="module")
def exported(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    classifier.train()
    classifier.channels_last = True
    return export_onnx(classifier, FACTS, tmp_path_factory.mktemp("exports") / "onnx").folder


def test_export_json_describes_the_export(exported: Path, classifier: Classifier) -> None:
    export = read_export(exported)
    assert (export.format, export.precision, export.quantization) == ("onnx", "fp32", None)
    assert export.facts == FACTS
    assert export.file.name == "model.onnx"
    assert 0 <= export.logits_max_difference < 1e-4
    assert sorted(p.name for p in exported.iterdir()) == ["export.json", "model.onnx"]
    assert classifier.training
    assert classifier.channels_last


def test_input_and_output_names_and_dynamic_batch(exported: Path) -> None:
    graph = onnx.load(str(exported / "model.onnx")).graph
    (given,), (gives,) = graph.input, graph.output
    shapes = [[d.dim_value or d.dim_param for d in each.type.tensor_type.shape.dim] for each in (given, gives)]
    assert (given.name, gives.name) == ("images", "logits")
    assert shapes == [["batch", 3, 16, 16], ["batch", 3]]
    assert str(Path(__file__).parents[2]).encode() not in (exported / "model.onnx").read_bytes()


@pytest.mark.parametrize("count", [1, 3, 17])
def test_the_logits_are_those_of_pytorch(count: int, exported: Path, classifier: Classifier) -> None:
    images = np.random.default_rng(count).random((count, 3, 16, 16), dtype=np.float32)
    with torch.inference_mode():
        expected = classifier.eval()(torch.from_numpy(images)).numpy()
    with open_runtime(exported, "onnxruntime") as network:
        np.testing.assert_allclose(network(images), expected, atol=1e-5)


def test_the_folder_is_unchanged_if_the_logits_differ(
    exported: Path, classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (exported / "model.onnx").read_bytes()
    plain = imgrec.export.verify.logits_of
    monkeypatch.setattr(imgrec.export.verify, "logits_of", lambda *given: plain(*given) + 1)
    with pytest.raises(UserError, match="network and PyTorch disagree: the logits differ by 1 in fp32"):
        export_onnx(classifier, FACTS, exported)
    assert (exported / "model.onnx").read_bytes() == before
    assert [p.name for p in exported.parent.iterdir()] == [exported.name]


def test_a_folder_of_other_files_is_not_replaced(classifier: Classifier, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is no export"):
        export_onnx(classifier, FACTS, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_unknown_precisions_are_refused(classifier: Classifier, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'precision: there is no "fp61"\. Did you mean "fp16"'):
        export_onnx(classifier, FACTS, tmp_path / "x", "fp61")
    with pytest.raises(UserError, match="Accepted: fp32, fp16"):
        export_onnx(classifier, FACTS, tmp_path / "x", "int8")


def test_a_network_that_cannot_be_traced_is_refused(tmp_path: Path) -> None:
    network = built(TINY)

    class Capricious(torch.nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return features[:, :3] if features.sum() > 0 else features[:, 3:6]

    network.head = Capricious()
    with pytest.raises(UserError, match="the network cannot be exported to ONNX: "):
        export_onnx(network, FACTS, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "extra"), [("onnx", "export"), ("onnxscript", "export"), ("openvino", "openvino")])
def test_a_missing_package_names_its_extra(
    package: str, extra: str, classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    export = export_openvino if package == "openvino" else export_onnx
    with pytest.raises(UserError, match=rf"needs the package {package}: pip install 'imgrec\[{extra}\]'"):
        export(classifier, FACTS, tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "was written by a newer imgrec"),
        ({"format": "tflite"}, "unknown format"),
        ({"facts": {}}, "cannot be read"),
    ],
)
def test_unreadable_exports_are_refused(change: dict[str, Any], message: str, exported: Path, tmp_path: Path) -> None:
    content = json.loads((exported / "export.json").read_text()) | change
    (tmp_path / "export.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_export(tmp_path)


def test_missing_and_incomplete_exports_are_refused(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no export"):
        read_export(tmp_path)
    (tmp_path / "export.json").write_text((exported / "export.json").read_text())
    with pytest.raises(UserError, match=r"holds no model\.onnx"):
        read_export(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_openvino_in_each_precision(precision: str, classifier: Classifier, tmp_path: Path) -> None:
    export = export_openvino(classifier, FACTS, tmp_path / "x", precision)
    assert read_export(export.folder) == export
    images = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    with torch.inference_mode():
        expected = classifier.eval()(torch.from_numpy(images)).numpy()
    with open_runtime(export.folder, "openvino") as network:
        np.testing.assert_allclose(network(images), expected, atol={"fp32": 1e-5, "fp16": 1e-2, "bf16": 0.1}[precision])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "size"),
    [
        ("mobilenetv3_small_100", 32),
        ("efficientnet_lite0", 32),
        ({"name": "vit_tiny_patch16_224", "depth": 2}, 32),
        ({"name": "convnext_atto", "depths": [1, 1, 1, 1]}, 32),
        ("resnet9", 32),
    ],
)
def test_common_networks_are_exported_and_quantized(backbone: Any, size: int, tmp_path: Path) -> None:
    from imgrec.compress.quantization.onnx_static import OnnxInt8

    facts = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=size)
    export = export_onnx(built(backbone, facts), facts, tmp_path / "x")
    images = np.random.default_rng(0).random((32, 3, size, size), dtype=np.float32)
    quantizer = OnnxInt8(export.file, images)
    file = quantizer.write(tmp_path / "int8.onnx")
    assert file.stat().st_size < 0.5 * export.file.stat().st_size
    with open_runtime(export.file, "onnxruntime") as network:
        expected = network(images)
    with open_runtime(quantizer.write(tmp_path / "kept.onnx", quantizer.layers), "onnxruntime") as network:
        np.testing.assert_allclose(network(images), expected, atol=1e-4)
    with open_runtime(file, "onnxruntime") as network:
        assert np.isfinite(network(images)).all()


def test_packages_do_not_import_extras() -> None:
    code = (
        "import sys, imgrec.export.formats, imgrec.export.runtimes\n"
        "import imgrec.compress.quantization.onnx_static, imgrec.studies.compression.quantize\n"
        "print([name for name in ('onnx', 'onnxruntime', 'openvino', 'nncf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
