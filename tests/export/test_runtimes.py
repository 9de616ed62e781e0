"""Each runtime computes the logits of the classifier or raises a clear error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from imgrec.errors import UserError
from imgrec.export.export_folder import Export, write_description
from imgrec.export.onnx_writer import write_onnx
from imgrec.export.runtimes.registry import network_bytes, open_runtime, runtimes_of
from imgrec.models import Classifier, build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("red", "green", "blue"), (1, 1, 1), image_size=16)
IMAGES = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def model() -> Classifier:
    torch.manual_seed(0)
    spec = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    return build_classifier(spec, "linear", "half", FACTS).eval()


@pytest.fixture(scope="module")
def export(model: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx and export.json."""
    folder = tmp_path_factory.mktemp("export")
    write_onnx(model, FACTS, folder / "model.onnx")
    write_description(folder, Export(folder, "onnx", "fp32", FACTS, 0.0))
    return folder


@pytest.fixture(scope="module")
def expected(model: Classifier) -> NDArray[np.float32]:
    with torch.no_grad():
        return model(torch.from_numpy(IMAGES)).numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_logits_equal_those_of_the_classifier(
    runtime: str, model: Classifier, export: Path, expected: NDArray[np.float32]
) -> None:
    with open_runtime(model if runtime == "torch" else export, runtime, facts=FACTS) as opened:
        assert (opened.kind, opened.precision, opened.batch_size) == (runtime, "fp32", None)
        assert opened.image_shape == (3, 16, 16)
        assert opened(IMAGES).dtype == np.float32
        np.testing.assert_allclose(opened(IMAGES), expected, atol=1e-4)
        np.testing.assert_allclose(opened(IMAGES[:1]), expected[:1], atol=1e-4)
        with pytest.raises(UserError, match=r"expected the shape 3 x 16 x 16, got 3 x 8 x 8"):
            opened(IMAGES[:, :, :8, :8])


def test_bfloat16_is_close_but_not_equal(model: Classifier, export: Path, expected: NDArray[np.float32]) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with open_runtime(export, "openvino", precision="bf16") as opened:
        assert opened.precision == "bf16"
        np.testing.assert_allclose(opened(IMAGES), expected, atol=0.1)
    copy = build_classifier(
        {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}, "linear", "half", FACTS
    )
    copy.load_state_dict(before)
    with open_runtime(copy, "torch", precision="bf16", facts=FACTS) as opened:
        found = opened(IMAGES)
        np.testing.assert_allclose(found, expected, atol=0.1)
        assert np.abs(found - expected).max() > 1e-5
    with pytest.raises(UserError, match="expected fp32, the precision of the file, got bf16"):
        open_runtime(export, "onnxruntime", precision="bf16")
    with pytest.raises(UserError, match="expected fp32, bf16, fp16, got int4"):
        open_runtime(export, "openvino", precision="int4")


def test_a_fixed_batch_size_refuses_others(export: Path, tmp_path: Path) -> None:
    graph = onnx.load(export / "model.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(graph, tmp_path / "fixed.onnx")
    for runtime in ("onnxruntime", "openvino"):
        with open_runtime(tmp_path / "fixed.onnx", runtime) as opened:
            assert opened.batch_size == 3
            assert opened(IMAGES).shape == (3, 3)
            with pytest.raises(UserError, match="expected a batch of 3, got 1"):
                opened(IMAGES[:1])


def test_invalid_sources_raise_one_line_errors(model: Classifier, export: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    (tmp_path / "notes.txt").write_text("")
    wrong: list[tuple[Path | Classifier, str, str]] = [
        (export, "onxruntime", 'no "onxruntime". Did you mean "onnxruntime"'),
        (export, "torch", "expected a run or a model folder for PyTorch, got an export"),
        (model, "openvino", "Export it first"),
        (tmp_path / "broken.onnx", "onnxruntime", "cannot be opened by ONNX Runtime"),
        (tmp_path / "broken.onnx", "openvino", "cannot be opened by OpenVINO"),
        (tmp_path / "gone.onnx", "onnxruntime", "no such file or folder"),
        (tmp_path / "notes.txt", "onnxruntime", r"expected a file .onnx or .xml"),
        (_two_inputs(tmp_path), "onnxruntime", "expected one input of images"),
        (_two_inputs(tmp_path), "openvino", "expected one input of images"),
    ]
    for source, runtime, message in wrong:
        with pytest.raises(UserError, match=message) as found:
            open_runtime(source, runtime)
        assert "\n" not in str(found.value)
    with pytest.raises(UserError, match="threads: expected int > 0, got 0"):
        open_runtime(export, "onnxruntime", threads=0)
    with pytest.raises(UserError, match='device: expected cpu for openvino, got "cuda"'):
        open_runtime(export, "openvino", device="cuda")


@pytest.mark.parametrize(("runtime", "extra"), [("onnxruntime", "export"), ("openvino", "openvino")])
def test_a_missing_package_names_its_extra(
    runtime: str, extra: str, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(UserError, match=rf"pip install 'imgrec\[{extra}\]'"):
        open_runtime(export, runtime)


def test_file_size_includes_external_weights(export: Path, tmp_path: Path) -> None:
    assert network_bytes(export) == (export / "model.onnx").stat().st_size
    for name, size in (("a.onnx", 10), ("a.onnx.data", 100), ("a.bin", 1000), ("b.xml", 1), ("b.bin", 20)):
        (tmp_path / name).write_bytes(bytes(size))
    assert network_bytes(tmp_path / "a.onnx") == 110
    assert network_bytes(tmp_path / "b.xml") == 21
    assert runtimes_of(tmp_path / "a.onnx") == ("onnxruntime", "openvino")
    assert runtimes_of(tmp_path / "b.xml") == ("openvino",)
    assert runtimes_of(tmp_path) == ("torch", "compile")


def test_an_onnx_file_opens_without_torch() -> None:
    code = "import sys, imgrec.export.runtimes.registry, imgrec.export.formats.registry, imgrec.bench.worker\n"
    code += "assert not {'torch', 'timm', 'pytorch_lightning'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _two_inputs(folder: Path) -> Path:
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 4, 4]) for name in ("a", "b")]
    output = helper.make_tensor_value_info("c", TensorProto.FLOAT, ["N", 3, 4, 4])
    graph = helper.make_graph([helper.make_node("Add", ["a", "b"], ["c"])], "two", inputs, [output])
    path = folder / "two.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
