"""Static int8 quantization after training for ONNX Runtime."""

from __future__ import annotations

import copy
import io
import tempfile
from collections.abc import Collection, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal, get_args

from imgrec.compress.quantization.calibration import Images, check_calibration, unit_batches
from imgrec.compress.quantization.onnx_graph import image_shape, layers_of, match_layers
from imgrec.compress.quantization.quantizer import Quantizer
from imgrec.errors import UserError, suggestion
from imgrec.utils.optional import require
from imgrec.utils.ranges import PositiveInt, check_ranges

Ranges = Literal["minmax", "percentile", "entropy"]

# there is no int8 kernel for these, so that quantizing them costs accuracy and time
_STAY_FLOAT = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "Softmax", "Gather", "Slice")


class OnnxInt8(Quantizer):
    """An ONNX file with calibrated activation ranges, from which int8 files are written.

    Quantized networks are in the QDQ format. Activations are uint8 with a scale per tensor, and weights are int8 with a
    scale per output channel. The network is calibrated once, in batches.

    Args:
        source: File ``.onnx`` in float32 with nodes named by
            :func:`imgrec.compress.quantization.onnx_graph.name_nodes`.
        images: Calibration images, ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].
        ranges: Range of activations: ``minmax``, ``percentile`` (99.999) or ``entropy`` (the range with the lowest
            divergence of the histogram). Defaults to ``minmax``.
        per_channel: If True, use a scale per output channel of the weights, which is more accurate at the same speed.
            Defaults to True.
        reduce_range: If True, use 7 bits for weights, to avoid overflow on processors without VNNI. Defaults to False.
        batch_size: Number of images per forward pass, 1 or more. Defaults to 16.

    Raises:
        UserError: If there are too few images, their shape is wrong, the file cannot be quantized, or a package is
            missing.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, 2018, arXiv:1712.05877.
    """

    @check_ranges
    def __init__(
        self,
        source: Path,
        images: Images,
        ranges: Ranges = "minmax",
        per_channel: bool = True,
        reduce_range: bool = False,
        batch_size: PositiveInt = 16,
    ) -> None:
        if ranges not in get_args(Ranges):
            names = get_args(Ranges)
            raise UserError(f'ranges: there is no "{ranges}".{suggestion(ranges, names)} Accepted: {", ".join(names)}.')
        self._model = _prepared(source)
        check_calibration(images, image_shape(self._model))
        self.settings = {"ranges": ranges, "per_channel": per_channel, "reduce_range": reduce_range}
        self._layers = layers_of(self._model)
        self.layers = tuple(self._layers)
        self._types = _quantizable_types()
        self._tensors = _calibrated(self._model, images, ranges, self._types, batch_size)

    def write(self, target: Path, keep: Collection[str] = ()) -> Path:
        """Write the network in int8.

        Args:
            target: File to write, in an existing folder.
            keep: Names or patterns of layers that stay in floating point, with the nodes before the next layer.
        """
        quantization = require("onnxruntime.quantization", "export", "int8 for ONNX Runtime")
        qdq = require("onnxruntime.quantization.qdq_quantizer", "export")
        kept = match_layers(keep, self.layers, "keep")
        out = {node for name in kept for node in self._layers[name]}
        out |= {node.name for node in self._model.graph.node if node.op_type in _STAY_FLOAT}
        # extra options stay at their defaults: without Clip among the types, EfficientNet-Lite0 lost 10 points
        quantizer = qdq.QDQQuantizer(
            copy.deepcopy(self._model),
            self.settings["per_channel"],
            self.settings["reduce_range"],
            quantization.QuantType.QInt8,
            quantization.QuantType.QUInt8,
            self._tensors,
            [],
            sorted(out),
            self._types,
            {},
        )
        quantizer.quantize_model()
        quantizer.model.save_model_to_file(str(target), False)
        return target


def _prepared(source: Path) -> Any:
    """Return the model with the shapes of all tensors, which the calibration requires."""
    preprocess = require("onnxruntime.quantization.shape_inference", "export", "int8 for ONNX Runtime")
    onnx = require("onnx", "export", "int8 for ONNX Runtime")
    with tempfile.TemporaryDirectory() as place:
        prepared = Path(place) / "prepared.onnx"
        try:
            # The optimizations would merge named nodes. The symbolic inference fails on some networks. The exporter has
            # already folded constants and inferred shapes.
            preprocess.quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        except Exception as error:  # the shape inference raises exceptions of many classes on unsupported operators
            raise UserError(f"{source} cannot be quantized: {str(error).partition(chr(10))[0]}") from error
        return onnx.load(str(prepared))


def _quantizable_types() -> list[str]:
    """Return the operator types that are quantized by default."""
    registry = require("onnxruntime.quantization.registry", "export", "int8 for ONNX Runtime")
    return sorted({*registry.QLinearOpsRegistry, *registry.QDQRegistry})


def _calibrated(model: Any, images: Images, ranges: Ranges, types: list[str], batch_size: int) -> Any:
    calibrate = require("onnxruntime.quantization.calibrate", "export", "int8 for ONNX Runtime")
    onnx = require("onnx", "export")
    methods = calibrate.CalibrationMethod
    method = {"minmax": methods.MinMax, "percentile": methods.Percentile, "entropy": methods.Entropy}[ranges]
    with tempfile.TemporaryDirectory() as place:
        plain, augmented = Path(place) / "plain.onnx", Path(place) / "augmented.onnx"
        onnx.save(model, str(plain))
        options = {"symmetric": False} if ranges == "percentile" else {}
        calibrator = calibrate.create_calibrator(
            plain, types, augmented_model_path=str(augmented), calibrate_method=method, extra_options=options
        )
        with redirect_stdout(io.StringIO()):  # the calibrator prints a line per batch
            for batch in unit_batches(images, batch_size):
                calibrator.collect_data(_Reader({model.graph.input[0].name: batch}))
            return calibrator.compute_data()


class _Reader:
    """Data reader of one batch for the calibrators."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([feed])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
