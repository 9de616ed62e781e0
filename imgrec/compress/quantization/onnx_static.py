"""int8 after training, for ONNX Runtime: calibrated once, written with any of the layers left in floating point."""

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

Ranges = Literal["minmax", "percentile", "entropy"]

# without a kernel for int8, quantizing them costs accuracy and time
_STAY_FLOAT = ("BatchNormalization", "LayerNormalization", "InstanceNormalization", "Softmax", "Gather", "Slice")


class OnnxInt8(Quantizer):
    """An ONNX file with the ranges of its activations, from which int8 networks are written.

    Quantized networks are in the QDQ format: activations unsigned 8 bit with a scale each, weights signed 8 bit with a
    scale each channel. The images go through the network once, in batches, and one batch is in memory at a time.

    Args:
        source: a file ``.onnx`` in float32, whose nodes :func:`imgrec.compress.quantization.onnx_graph.name_nodes`
        has named.
        images: what it is calibrated on, ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].
        ranges: ``minmax`` takes the smallest and the largest value that was seen; ``percentile`` the 99.999th;
            ``entropy`` the range whose histogram tells least apart.
        per_channel: a scale for each output channel's weights; one for all is less exact and hardly faster.
        reduce_range: weights in 7 bits, for processors without VNNI, which would overflow.
        batch_size: images in one pass.

    Raises:
        UserError: too few images, or of another size; the file cannot be quantized; a package is missing.

    Source: Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference, 2018, arXiv:1712.05877.
    """

    def __init__(
        self,
        source: Path,
        images: Images,
        ranges: Ranges = "minmax",
        per_channel: bool = True,
        reduce_range: bool = False,
        batch_size: int = 16,
    ) -> None:
        if ranges not in get_args(Ranges):
            words = get_args(Ranges)
            raise UserError(f'ranges: there is no "{ranges}".{suggestion(ranges, words)} Accepted: {", ".join(words)}.')
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
            target: the file; its folder must be there.
            keep: layers that stay in floating point, by name or pattern, with what follows them up to the next layer.
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
    """The model with the shape of every tensor, which calibration needs."""
    preprocess = require("onnxruntime.quantization.shape_inference", "export", "int8 for ONNX Runtime")
    onnx = require("onnx", "export", "int8 for ONNX Runtime")
    with tempfile.TemporaryDirectory() as place:
        prepared = Path(place) / "prepared.onnx"
        try:
            # its optimizations would merge nodes, and their names with them; the exporter has folded what can be.
            # Its symbolic inference fails on some networks, and the exporter has named the shapes that it would find.
            preprocess.quant_pre_process(str(source), str(prepared), skip_optimization=True, skip_symbolic_shape=True)
        except Exception as error:  # whatever the shape inference raises on an operator that it does not know
            raise UserError(f"{source} cannot be quantized: {str(error).partition(chr(10))[0]}") from error
        return onnx.load(str(prepared))


def _quantizable_types() -> list[str]:
    """The types of nodes that are quantized by default."""
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
        with redirect_stdout(io.StringIO()):  # the histograms are announced batch by batch
            for batch in unit_batches(images, batch_size):
                calibrator.collect_data(_Reader({model.graph.input[0].name: batch}))
            return calibrator.compute_data()


class _Reader:
    """One batch, as the calibrators ask for it."""

    def __init__(self, feed: dict[str, Any]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter([feed])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)
