"""ONNX files with smaller weights: in float16, or in int8 for the matrix products alone."""

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

_LARGE = 1024  # numbers; smaller tensors are not worth a node
_LARGEST_HALF = 65504.0


def half_weights(file: Path) -> None:
    """Store the weights of a file in float16, in place: half the bytes, the same arithmetic.

    A runtime widens them once, when it opens the file. Tensors with values beyond float16 stay as they are.
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
    """Write a network whose matrix products are in int8, the ranges of their activations read anew from each batch.

    It needs no calibration, and is for transformers: convolutions and the head stay in floating point.

    Args:
        source: a file ``.onnx`` in float32, whose nodes :func:`imgrec.compress.quantization.onnx_graph.name_nodes`
        has named.
        target: the file that is written.
        keep: layers that stay in floating point, by name or pattern.

    Raises:
        UserError: it has no matrix product with weights, or only such that are kept; a pattern matches no layer.
    """
    quantization = require("onnxruntime.quantization", "export", "int8 for ONNX Runtime")
    shapes = require("onnxruntime.quantization.shape_inference", "export")
    products, _ = _products(source, keep)
    with tempfile.TemporaryDirectory() as place, _root_logger_as_it_is():
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
    """Write a network whose matrix products hold int8 weights, a scale for every 32 numbers, and little else changed.

    A quarter of the bytes for hardly any loss. It is for transformers: convolutions and the head stay in floating
    point. The file has nodes ``MatMulNBits``, which only ONNX Runtime knows.

    Args:
        source: a file ``.onnx`` in float32, whose nodes :func:`imgrec.compress.quantization.onnx_graph.name_nodes`
        has named.
        target: the file that is written.
        keep: layers that stay in floating point, by name or pattern.

    Raises:
        UserError: it has no matrix product with weights, or only such that are kept; a pattern matches no layer.
    """
    onnx = require("onnx", "export", "int8 for ONNX Runtime")
    _, kept = _products(source, keep)
    with _root_logger_as_it_is():
        narrow = require("onnxruntime.quantization.matmul_nbits_quantizer", "export", "int8 for ONNX Runtime")
        quantizer = narrow.MatMulNBitsQuantizer(
            onnx.load(str(source)), bits=8, block_size=32, is_symmetric=True, accuracy_level=4, nodes_to_exclude=kept
        )
        quantizer.process()
    quantizer.model.save_model_to_file(str(target), False)
    return target


class OnnxProducts(Quantizer):
    """A file ``.onnx`` whose matrix products can be written in int8, with some of them left as they are.

    Args:
        source: see :func:`quantize_dynamic`.
        method: ``dynamic`` for :func:`quantize_dynamic`, ``weights`` for :func:`quantize_weights`.
    """

    def __init__(self, source: Path, method: Literal["dynamic", "weights"]) -> None:
        self._source = source
        self._write = quantize_dynamic if method == "dynamic" else quantize_weights
        chosen, _ = _products(source, ())
        self.layers = tuple(chosen)
        self.settings = {"per_channel": method == "dynamic"}

    def write(self, target: Path, keep: Collection[str] = ()) -> Path:
        """Write the network in int8; ``keep`` are names of layers that stay in floating point."""
        return self._write(self._source, target, keep)


def _products(source: Path, keep: Collection[str]) -> tuple[list[str], list[str]]:
    """The names of the matrix products with weights that are to be quantized, and of those that stay."""
    model = require("onnx", "export").load(str(source))
    kind = {node.name: node.op_type for node in model.graph.node}
    layers = list(layers_of(model))
    kept = match_layers(keep, layers, "keep")
    chosen = [name for name in layers if kind[name] == "MatMul" and name not in kept]
    if not chosen:
        raise UserError(
            f"of the {len(layers)} layers none is a matrix product that is not kept; static quantization is for "
            "convolutions"
        )
    return chosen, [name for name in layers if name not in chosen]


@contextmanager
def _root_logger_as_it_is() -> Iterator[None]:
    """ONNX Runtime's quantization gives Python's root logger a handler, and advice of its own; neither is wanted."""
    root = logging.getLogger()
    silent, level = logging.NullHandler(), root.level
    before = list(root.handlers)
    root.handlers[:] = [silent]
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
