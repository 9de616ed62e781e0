"""Weight-only compression of ONNX files: float16 weights, and int8 weights of matrix products."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np

from imgrec.compress.quantization.onnx_graph import layers_of, match_layers
from imgrec.compress.quantization.quantizer import Quantizer
from imgrec.errors import UserError
from imgrec.utils.optional import require

_LARGE = 1024  # elements, smaller tensors are not converted
_LARGEST_HALF = 65504.0


def half_weights(file: Path) -> None:
    """Store the weights of a file in float16, in place. The arithmetic remains float32.

    A runtime converts them to float32 once, when it opens the file. Tensors with values beyond the range of float16 are
    not converted.
    """
    onnx = require("onnx", "export", "ONNX export")
    model = onnx.load(str(file))
    graph = model.graph
    for tensor in list(graph.initializer):
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = onnx.numpy_helper.to_array(tensor)
        if values.size < _LARGE or np.abs(values).max() > _LARGEST_HALF:
            continue
        name = tensor.name
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}/half"))
        widen = onnx.helper.make_node("Cast", [f"{name}/half"], [name], f"{name}/Cast", to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, widen)
    onnx.save(model, str(file))


def quantize_dynamic(source: Path, target: Path, keep: Collection[str] = ()) -> Path:
    """Write a network with matrix products in int8 and activation ranges that are measured in each batch.

    No calibration is required. The method is for transformers, because convolutions and the head stay in floating
    point.

    Args:
        source: File ``.onnx`` in float32 with nodes named by
            :func:`imgrec.compress.quantization.onnx_graph.name_nodes`.
        target: File to write.
        keep: Names or patterns of layers that stay in floating point.

    Raises:
        UserError: If no matrix product with weights remains to quantize, or if a pattern matches no layer.
    """
    quantization = require("onnxruntime.quantization", "export", "int8 for ONNX Runtime")
    shapes = require("onnxruntime.quantization.shape_inference", "export")
    products, _ = _products(source, keep)
    with tempfile.TemporaryDirectory() as place, _preserve_root_logger():
        prepared = Path(place) / "prepared.onnx"
        shapes.quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        quantization.quantize_dynamic(
            str(prepared),
            str(target),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            nodes_to_quantize=products,
            extra_options={"MatMulConstBOnly": True},
        )
    return target


def quantize_weights(source: Path, target: Path, keep: Collection[str] = ()) -> Path:
    """Write a network with int8 weights of matrix products, with a scale per block of 32 weights.

    The weights take a quarter of the bytes at almost no loss of accuracy. The method is for transformers, because
    convolutions and the head stay in floating point. Its operator ``MatMulNBits`` is supported by ONNX Runtime only.

    Args:
        source: File ``.onnx`` in float32 with nodes named by
            :func:`imgrec.compress.quantization.onnx_graph.name_nodes`.
        target: File to write.
        keep: Names or patterns of layers that stay in floating point.

    Raises:
        UserError: If no matrix product with weights remains to quantize, or if a pattern matches no layer.
    """
    onnx = require("onnx", "export", "int8 for ONNX Runtime")
    _, kept = _products(source, keep)
    with _preserve_root_logger():
        narrow = require("onnxruntime.quantization.matmul_nbits_quantizer", "export", "int8 for ONNX Runtime")
        quantizer = narrow.MatMulNBitsQuantizer(
            onnx.load(str(source)), bits=8, block_size=32, is_symmetric=True, accuracy_level=4, nodes_to_exclude=kept
        )
        quantizer.process()
    quantizer.model.save_model_to_file(str(target), False)
    return target


class OnnxProducts(Quantizer):
    """Quantizer of the matrix products of an ONNX file.

    Args:
        source: File ``.onnx``, see :func:`quantize_dynamic`.
        method: ``dynamic`` for :func:`quantize_dynamic`, ``weights`` for :func:`quantize_weights`.
    """

    def __init__(self, source: Path, method: Literal["dynamic", "weights"]) -> None:
        self._source = source
        self._write = quantize_dynamic if method == "dynamic" else quantize_weights
        selected, _ = _products(source, ())
        self.layers = tuple(selected)
        self.settings = {"per_channel": method == "dynamic"}

    def write(self, target: Path, keep: Collection[str] = ()) -> Path:
        """Write the network in int8.

        Args:
            target: File to write.
            keep: Names or patterns of layers that stay in floating point.
        """
        return self._write(self._source, target, keep)


def _products(source: Path, keep: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the names of the matrix products to quantize, and those of all other layers."""
    model = require("onnx", "export").load(str(source))
    kind = {node.name: node.op_type for node in model.graph.node}
    layers = list(layers_of(model))
    kept = match_layers(keep, layers, "keep")
    selected = [name for name in layers if kind[name] == "MatMul" and name not in kept]
    if not selected:
        raise UserError(
            f"none of the {len(layers)} layers is a matrix product to quantize. Use static quantization for "
            "convolutions."
        )
    return selected, [name for name in layers if name not in selected]


@contextmanager
def _preserve_root_logger() -> Iterator[None]:
    """Restore the root logger afterwards, because the quantization of ONNX Runtime adds a handler and log records."""
    root = logging.getLogger()
    silent, level = logging.NullHandler(), root.level
    before = list(root.handlers)
    root.handlers[:] = [silent]
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
