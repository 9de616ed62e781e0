"""int8 after training, for OpenVINO, by NNCF."""

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
"""How NNCF makes up in the biases for what rounding shifts; see :class:`OpenVinoInt8`."""

_TRIED: tuple[Biases, ...] = ("fast", "none")
_BATCH = 64
_MAX_LAYERS_TO_RANK = 24


class OpenVinoInt8(Quantizer):
    """An ONNX file and images, from which int8 networks for OpenVINO are written.

    Each is calibrated anew: NNCF also corrects the biases, and which ones depends on what is quantized.

    Args:
        source: a file ``.onnx`` in float32, whose nodes :func:`imgrec.compress.quantization.onnx_graph.name_nodes`
        has named.
        images: what is calibrated on, ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].
        biases: how the biases are corrected: ``fast``, NNCF's default, layer by layer from means alone; ``accurate``,
            which runs parts of the network again for each layer, and takes long; ``none``. The fast way can do harm:
            a narrow network lost two points of accuracy by it and half a point without. ``auto`` tries ``fast`` and
            ``none`` on the whole network, and keeps the one that leads the calibration images less astray.

    Raises:
        UserError: too few images, or of another size; a package is missing.

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
        """How the biases are corrected; of ``auto``, what was found to be better."""
        if self._biases != "auto":
            return self._biases
        import openvino

        reference = self._logits(openvino.convert_model(str(self._source)))
        found = {way: divergence(reference, self._logits(self._quantized((), way))) for way in _TRIED}
        return min(_TRIED, key=found.__getitem__)

    def write(self, target: Path, keep: Collection[str] = ()) -> Path:
        """Write the network in int8: ``target``, a file ``.xml``, and its weights beside it.

        Args:
            target: the file; its folder must be there.
            keep: layers that stay in floating point, by name or pattern, with what follows them up to the next layer.
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
                    # a name that NNCF has no node for belongs to a constant, or was merged into its neighbour
                    ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
                    advanced_parameters=AdvancedQuantizationParameters(disable_bias_correction=biases == "none"),
                )
            except RuntimeError as error:
                raise UserError(f"{self._source} cannot be quantized: {str(error).partition(chr(10))[0]}") from error

    def _logits(self, network: Any) -> NDArray[np.float32]:
        """What a network gives for the calibration images; in float32 where it is not quantized."""
        import openvino

        compiled = openvino.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return np.concatenate([compiled(batch)[0] for batch in unit_batches(self._images, _BATCH)])


def _stem(name: str, known: Collection[str]) -> str:
    """The ONNX node that an operation came from: ``conv1`` for ``conv1/WithoutBiases``, where OpenVINO made several."""
    while name not in known and "/" in name:
        name = name.rpartition("/")[0]
    return name


@contextmanager
def _silent() -> Iterator[None]:
    """NNCF says on import and in each pass what it does, draws progress bars, and lets PyTorch look for CUDA."""
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
