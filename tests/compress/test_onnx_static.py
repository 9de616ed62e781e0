"""Static int8 quantization for ONNX Runtime: graph, scales and ranges."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from imgrec.compress.quantization.onnx_graph import layers_of, name_nodes
from imgrec.compress.quantization.onnx_static import OnnxInt8
from imgrec.errors import UserError
from imgrec.export.onnx_writer import write_onnx
from imgrec.export.runtimes.registry import open_runtime
from imgrec.models import Classifier, build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=16)
BACKBONE = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_classifier(BACKBONE, "linear", "half", FACTS)
        for module in network.modules():  # batch norms that do something, to be folded
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(module.weight, 0.5, 2)
                for buffer in (module.running_mean, module.running_var):
                    assert buffer is not None
                    buffer.uniform_(0.5, 2)
        return network.eval()


@pytest.fixture(scope="module")
def source(classifier: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(classifier, FACTS, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (40, 3, 16, 16), dtype=np.uint8)


@pytest.fixture(scope="module")
def quantizer(source: Path, images: NDArray[np.uint8]) -> OnnxInt8:
    return OnnxInt8(source, images, batch_size=7)


def by_name(file: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]], dict[str, Any]]:
    """Return nodes by name, constants by name, and the node that computes each tensor."""
    graph = onnx.load(str(file)).graph
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    return {n.name: n for n in graph.node}, constants, {out: n for n in graph.node for out in n.output}


def test_layers_have_the_names_of_the_classifier(source: Path, classifier: Classifier, quantizer: OnnxInt8) -> None:
    modules = dict(classifier.named_modules())
    weighted = [n for n, m in modules.items() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert set(quantizer.layers) == set(weighted)
    model = onnx.load(str(source))
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert sorted(name for names in layers_of(model).values() for name in names) == sorted(nodes)


def test_names_without_scopes_are_unique() -> None:
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    other = onnx.helper.make_node("Relu", ["y"], ["z"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node, other], "g", [], []))
    name_nodes(model)
    assert [each.name for each in model.graph.node] == ["/Relu", "/Relu#2"]
    with pytest.raises(UserError, match="no convolution and no linear layer"):
        layers_of(model)


def test_convolutions_are_int8_except_kept_layers(quantizer: OnnxInt8, tmp_path: Path) -> None:
    kept = ["backbone.network.conv1", "backbone.network.layer2.*"]
    file = quantizer.write(tmp_path / "int8.onnx", kept)
    nodes, constants, made_by = by_name(file)
    for name in quantizer.layers:
        inputs = [made_by.get(each) for each in nodes[name].input[:2]]
        is_int8 = [each is not None and each.op_type == "DequantizeLinear" for each in inputs]
        if name == kept[0] or "layer2" in name:
            assert not is_int8[1], name
            assert constants[nodes[name].input[1]].dtype == np.float32
        else:
            assert all(is_int8), name
            assert constants[inputs[1].input[0]].dtype == np.int8  # type: ignore[union-attr]


def test_weights_have_a_scale_per_channel(source: Path, quantizer: OnnxInt8, tmp_path: Path) -> None:
    name = "backbone.network.layer1.0.conv2"
    nodes, constants, made_by = by_name(quantizer.write(tmp_path / "int8.onnx"))
    float_nodes, float_constants, _ = by_name(source)
    weight = float_constants[float_nodes[name].input[1]]
    dequantize = made_by[nodes[name].input[1]]
    integers, scales, zeros = (constants[each] for each in dequantize.input)
    expected = np.abs(weight).max(axis=(1, 2, 3)) / 127
    np.testing.assert_allclose(scales, expected, rtol=0.01)
    assert (zeros == 0).all()
    np.testing.assert_array_equal(integers, np.round(weight / scales[:, None, None, None]).clip(-128, 127))


def test_activation_ranges_equal_those_of_the_images(
    classifier: Classifier, images: NDArray[np.uint8], quantizer: OnnxInt8, tmp_path: Path
) -> None:
    nodes, constants, made_by = by_name(quantizer.write(tmp_path / "int8.onnx"))
    dequantize = made_by[nodes["backbone.network.conv1"].input[0]]
    scale, zero = (constants[each] for each in dequantize.input[1:])
    with torch.no_grad():
        normalized = classifier.normalize(torch.from_numpy(images))
    assert float(scale) == pytest.approx((normalized.max() - normalized.min()).item() / 255, rel=1e-4)
    assert zero.dtype == np.uint8


def test_logits_are_close_and_equal_with_all_layers_kept(
    source: Path, images: NDArray[np.uint8], quantizer: OnnxInt8, tmp_path: Path
) -> None:
    unit = images.astype(np.float32) / 255
    with open_runtime(source, "onnxruntime") as network:
        expected = network(unit)
    with open_runtime(quantizer.write(tmp_path / "int8.onnx"), "onnxruntime") as network:
        found = network(unit)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    with open_runtime(quantizer.write(tmp_path / "kept.onnx", ["*"]), "onnxruntime") as network:
        np.testing.assert_allclose(network(unit), expected, atol=1e-5)


@pytest.mark.parametrize("ranges", ["percentile", "entropy"])
def test_other_ranges_are_no_wider(
    ranges: Any, source: Path, images: NDArray[np.uint8], quantizer: OnnxInt8, tmp_path: Path
) -> None:
    other = OnnxInt8(source, images[:32], ranges).write(tmp_path / "other.onnx")
    scales = []
    for file in (quantizer.write(tmp_path / "minmax.onnx"), other):
        nodes, constants, made_by = by_name(file)
        scales.append(float(constants[made_by[nodes["head.linear"].input[0]].input[1]]))
    assert 0.1 * scales[0] < scales[1] <= 1.05 * scales[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((31, 3, 16, 16), np.uint8), "expected at least 32 images, got 31"),
        (np.zeros((40, 3, 20, 16), np.uint8), "expected images of 3 x 16 x 16, got 3 x 20 x 16"),
        (np.zeros((40, 1, 16, 16), np.uint8), "expected images of 3 x 16 x 16, got 1 x 16 x 16"),
        (np.zeros((40, 3, 16, 16), np.float64), "got float64"),
    ],
)
def test_invalid_images_are_refused(given: Any, message: str, source: Path) -> None:
    with pytest.raises(UserError, match=message):
        OnnxInt8(source, given)


def test_unknown_names_are_refused(
    source: Path, images: NDArray[np.uint8], quantizer: OnnxInt8, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r'no "minmaxx"\. Did you mean "minmax"'):
        OnnxInt8(source, images, "minmaxx")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=re.escape('keep: "head.liner" matches no layer. Did you mean "head.linear"')):
        quantizer.write(tmp_path / "int8.onnx", ["head.liner"])
    assert not (tmp_path / "int8.onnx").exists()
