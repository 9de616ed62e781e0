"""Static int8 quantization after training for OpenVINO, with NNCF."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgrec.compress.quantization.calibration import Images, check_calibration, unit_batches
from imgrec.compress.quantization.onnx_graph import image_shape, layers_of, match_layers
from imgrec.compress.quantization.onnx_static import OnnxInt8
from imgrec.compress.quantization.quantizer import Quantizer
from imgrec.compress.quantization.sensitivity import divergence
from imgrec.errors import UserError
from imgrec.utils.optional import require

Biases = Literal["auto", "fast", "accurate", "none"]
"""Method of bias correction, see :class:`OpenVinoInt8`."""

_AUTO_BIASES: tuple[Biases, ...] = ("fast", "none")
_BATCH = 64
_MAX_LAYERS_TO_RANK = 24


class OpenVinoInt8(Quantizer):
    """An ONNX file with calibration images, from which int8 files for OpenVINO are written.

    Each file is calibrated separately, because the bias correction of NNCF depends on the quantized layers.

    Args:
        source: File ``.onnx`` in float32 with nodes named by
            :func:`imgrec.compress.quantization.onnx_graph.name_nodes`.
        images: Calibration images, ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].
        biases: Bias correction. ``fast``, the default of NNCF, corrects each layer by means. ``accurate`` runs parts of
            the network again for each layer and is slow. ``none`` corrects nothing. ``fast`` can reduce the accuracy: a
            narrow network lost two points with it and half a point without. ``auto`` tries ``fast`` and ``none`` and
            selects the one with the lower divergence on the calibration images. Defaults to ``auto``.

    Raises:
        UserError: If there are too few images, their shape is wrong, or a package is missing.

    Source: NNCF, https://github.com/openvinotoolkit/nncf
    """

    suffix = ".xml"

    def __init__(self, source: Path, images: Images, biases: Biases = "auto") -> None:
        with _silent():
            require("nncf", "openvino", "int8 for OpenVINO")
        require("openvino", "openvino", "int8 for OpenVINO")
        model = require("onnx", "export", "int8 for OpenVINO").load(str(source))
        check_calibration(images, image_shape(model))
        self._biases = biases
        self._source = source
        self._images = images
        self._layers = layers_of(model)
        self.layers = tuple(self._layers)
        self._transformer = any(node.op_type == "Softmax" for node in model.graph.node)

    @cached_property
    def settings(self) -> dict[str, Any]:  # type: ignore[override]
        """Options of the quantization as plain data."""
        return {"ranges": "nncf", "per_channel": True, "biases": self.biases}

    @cached_property
    def biases(self) -> Biases:
        """Method of bias correction. For ``auto``, it is the selected method."""
        if self._biases != "auto":
            return self._biases
        import openvino

        reference = self._logits(openvino.convert_model(str(self._source)))
        found = {each: divergence(reference, self._logits(self._quantized((), each))) for each in _AUTO_BIASES}
        return min(_AUTO_BIASES, key=found.__getitem__)

    def write(self, target: Path, keep: Collection[str] = ()) -> Path:
        """Write the network in int8, with its weights in a file ``.bin`` in the same folder.

        Args:
            target: File ``.xml`` to write, in an existing folder.
            keep: Names or patterns of layers that stay in floating point, with the nodes before the next layer.
        """
        import openvino

        kept = match_layers(keep, self.layers, "keep")
        openvino.save_model(self._quantized(kept, self.biases), str(target), compress_to_fp16=False)
        return target

    def for_sensitivity(self, images: Images) -> Quantizer:
        """Return a quantizer on fewer images, of ONNX Runtime if the network has more than 24 layers.

        NNCF calibrates again for each network that is written, which takes too long for many layers.
        """
        if len(self.layers) > _MAX_LAYERS_TO_RANK:
            return OnnxInt8(self._source, images)
        return OpenVinoInt8(self._source, images, self.biases)

    def _quantized(self, kept: Collection[str], biases: Biases) -> Any:
        import nncf
        import openvino
        from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters

        network = openvino.convert_model(str(self._source))
        out = {node for name in kept for node in self._layers[name]}
        ignored = [op.get_friendly_name() for op in network.get_ops() if _stem(op.get_friendly_name(), out) in out]
        batches = list(range(len(self._images)))

        def image(index: int) -> Any:
            return next(unit_batches(self._images[index : index + 1], 1))

        with _silent():
            try:
                return nncf.quantize(
                    network,
                    nncf.Dataset(batches, image),
                    subset_size=len(self._images),
                    fast_bias_correction=biases != "accurate",
                    model_type=nncf.ModelType.TRANSFORMER if self._transformer else None,
                    # names without a node of NNCF belong to constants or to merged operations
                    ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
                    advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=biases == "none"),
                )
            except RuntimeError as error:
                raise UserError(f"{self._source} cannot be quantized: {str(error).partition(chr(10))[0]}") from error

    def _logits(self, network: Any) -> NDArray[np.float32]:
        """Return the logits of the calibration images. Layers that are not quantized compute in float32."""
        import openvino

        compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([compiled(batch)[0] for batch in unit_batches(self._images, _BATCH)])


def _stem(name: str, known: Collection[str]) -> str:
    """Return the ONNX node of an operation: ``conv1`` for ``conv1/WithoutBiases``, if OpenVINO split the node."""
    while name not in known and "/" in name:
        name = name.rpartition("/")[0]
    return name


@contextmanager
def _silent() -> Iterator[None]:
    """Suppress the log records and progress bars of NNCF, and the message of PyTorch about CUDA."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled
