"""Smaller weights in ONNX files: float16, and int8 of matrix products."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from imgrec.compress.quantization.onnx_weight_only import OnnxProducts, half_weights, quantize_dynamic, quantize_weights
from imgrec.errors import UserError
from imgrec.export.onnx_writer import write_onnx
from imgrec.export.runtimes.registry import open_runtime
from imgrec.models import build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=16)
VIT = {"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 64, "num_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_classifier(VIT, "linear", "half", FACTS)
        torch.nn.init.normal_(network.head.linear.weight, 0, 0.3)  # type: ignore[union-attr, arg-type]
    return write_onnx(network, FACTS, tmp_path_factory.mktemp("onnx") / "model.onnx")


def logits(file: Path) -> NDArray[np.float32]:
    images = np.random.default_rng(0).random((8, 3, 16, 16), dtype=np.float32)
    with open_runtime(file, "onnxruntime") as network:
        return network(images)


def kinds(file: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(file)).graph.node]


def test_half_weights_have_half_the_bytes_and_the_same_arithmetic(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "half.onnx"
    shutil.copy(source, file)
    half_weights(file)
    assert file.stat().st_size < 0.65 * source.stat().st_size
    difference = np.abs(logits(file) - logits(source)).max()
    assert 0 < difference < 2e-3 * np.abs(logits(source)).max() + 1e-3


def test_weights_beyond_float16_are_not_converted(tmp_path: Path) -> None:
    values = np.full((40, 40), 1e5, dtype=np.float32)
    weight = onnx.numpy_helper.from_array(values, "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    file = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], [weight])), str(file))
    half_weights(file)
    assert onnx.load(str(file)).graph.initializer[0].data_type == onnx.TensorProto.FLOAT


def test_matrix_products_in_dynamic_int8(source: Path, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    file = quantize_dynamic(source, tmp_path / "dynamic.onnx", ["*.0.mlp.fc1"])
    assert (list(root.handlers), root.level) == before
    assert kinds(file).count("MatMulInteger") == 7  # qkv, proj, fc1 and fc2 of two blocks without the kept one
    assert kinds(file).count("MatMul") == 4 + 1 + 1  # the attention's own, the one that is kept, the head
    expected, found = logits(source), logits(file)
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_weight_only_int8(source: Path, tmp_path: Path) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    file = quantize_weights(source, tmp_path / "weights.onnx", ["*.blocks.1.*"])
    assert (list(root.handlers), root.level) == before
    assert kinds(file).count("MatMulNBits") == 4
    expected, found = logits(source), logits(file)
    assert 0 < np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_a_quantizer_lists_its_layers(source: Path, tmp_path: Path) -> None:
    products = OnnxProducts(source, "weights")
    assert len(products.layers) == 8
    assert "backbone.network.blocks.0.attn.qkv" in products.layers
    assert kinds(products.write(tmp_path / "one.onnx", products.layers[1:])).count("MatMulNBits") == 1
    assert OnnxProducts(source, "dynamic").layers == products.layers


def test_nothing_left_to_quantize_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of the 10 layers is a matrix product to quantize"):
        quantize_weights(source, tmp_path / "none.onnx", ["*"])
