"""int8 after training, for OpenVINO, by NNCF."""

from __future__ import annotations

import io
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from imgrec.compress.calibration import Images, check_calibration, unit_batches
from imgrec.compress.onnx_graph import image_shape, layers_of, match_layers
from imgrec.errors import UserError
from imgrec.extras import require


class OpenVinoInt8:
    """An ONNX file and images, from which int8 networks for OpenVINO are written.

    Each is calibrated anew: NNCF also corrects the biases, and which ones depends on what is quantized.

    Args:
        source: a file ``.onnx`` in float32, whose nodes :func:`imgrec.compress.onnx_graph.name_nodes` has named.
        images: what is calibrated on, ``(N, C, H, W)``, uint8 in 0..255 or float32 in [0, 1].

    Raises:
        UserError: too few images, or of another size; a package is missing.

    Source: NNCF, https://github.com/openvinotoolkit/nncf
    """

    def __init__(self, source: Path, images: Images) -> None:
        with _silent():
            require("nncf", "openvino", "int8 for OpenVINO")
        require("openvino", "openvino", "int8 for OpenVINO")
        model = require("onnx", "export", "int8 for OpenVINO").load(str(source))
        check_calibration(images, image_shape(model))
        self.settings: dict[str, Any] = {"ranges": "nncf", "per_channel": True}
        self._source = source
        self._images = images
        self._layers = layers_of(model)
        self._transformer = any(node.op_type == "Softmax" for node in model.graph.node)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers with weights, in the order of the network."""
        return tuple(self._layers)

    def write(self, target: Path, keep: Collection[str] = ()) -> Path:
        """Write the network in int8: ``target``, a file ``.xml``, and its weights beside it.

        Args:
            target: the file; its folder must be there.
            keep: layers that stay in floating point, by name or pattern, with what follows them up to the next layer.
        """
        import nncf
        import openvino

        kept = match_layers(keep, self.layers, "keep")
        network = openvino.convert_model(str(self._source))
        out = {node for name in kept for node in self._layers[name]}
        ignored = [op.get_friendly_name() for op in network.get_ops() if _stem(op.get_friendly_name(), out) in out]
        batches = list(range(len(self._images)))

        def image(index: int) -> Any:
            return next(unit_batches(self._images[index : index + 1], 1))

        with _silent():
            try:
                quantized = nncf.quantize(
                    network,
                    nncf.Dataset(batches, image),
                    subset_size=len(self._images),
                    model_type=nncf.ModelType.TRANSFORMER if self._transformer else None,
                    # a name that NNCF has no node for belongs to a constant, or was merged into its neighbour
                    ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
                )
            except RuntimeError as error:
                raise UserError(f"{self._source} cannot be quantized: {str(error).partition(chr(10))[0]}") from error
        openvino.save_model(quantized, str(target), compress_to_fp16=False)
        return target


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
