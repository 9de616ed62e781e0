"""Runtime of OpenVINO and ONNX files: OpenVINO, on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imgrec.errors import UserError
from imgrec.export.runtimes.base import RUNTIMES, Images, Logits, OpenOptions, Runtime

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


@RUNTIMES.register("openvino")
class OpenVinoRuntime(Runtime):
    """OpenVINO with one inference stream.

    Opens ``.xml`` and ``.onnx`` files on ``cpu``. Layers that are not quantized are computed in ``fp32`` unless
    ``precision`` is ``bf16`` or ``fp16``, or unless the file is stored in ``bf16``. Requires the extra ``openvino``.

    Args:
        network: File ``.xml`` with its weights ``.bin`` in the same folder, or file ``.onnx``.
        options: Precision and threads.

    Raises:
        UserError: If the package is missing, the file cannot be opened, or its inputs are not one batch of images.

    Example:
        >>> from imgrec import RUNTIMES
        >>> RUNTIMES.entry("openvino").factory.precisions
        ('fp32', 'bf16', 'fp16')
    """

    title = short_title = "OpenVINO"
    suffixes = (".xml", ".onnx")
    precisions = ("fp32", "bf16", "fp16")
    package = ("openvino", "openvino")
    order = 3
    marker = "D"

    def __init__(self, network: Path, options: OpenOptions) -> None:
        openvino = self.require()
        requested = options.precision
        computed = requested or ("bf16" if options.stored == "bf16" else "fp32")
        self.precision = requested or options.stored
        if options.stored == "int8" and requested is not None:
            self.precision = f"int8+{requested}"
        core = openvino.Core()
        config = {
            "INFERENCE_NUM_THREADS": options.threads,
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[computed],  # the default is bf16 on processors with fast bf16
            "ENABLE_CPU_PINNING": False,  # the caller sets the affinity of the process
        }
        try:
            self._network: Any = core.compile_model(core.read_model(str(network)), "CPU", config)
        except RuntimeError as error:
            raise UserError(f"{network} cannot be opened by OpenVINO: {_reason(error)}") from error
        inputs = self._network.inputs
        shape = inputs[0].partial_shape if len(inputs) == 1 else None
        if shape is None or shape.rank.is_dynamic or len(shape) != 4:
            found = ", ".join(f"{sorted(each.names)} {each.partial_shape}" for each in inputs)
            raise UserError(f"{network}: expected one input of images, (N, C, H, W), got {found}.")
        self._type = inputs[0].element_type.to_dtype()
        batch, *lengths = (length.get_length() if length.is_static else 0 for length in shape)
        self.batch_size = batch or None
        self.image_shape = (lengths[0], lengths[1], lengths[2])
        self._request = self._network.create_infer_request()

    def __call__(self, images: Images) -> Logits:  # noqa: D102
        self.check(images)
        found = self._request.infer([np.ascontiguousarray(images, dtype=self._type)], share_inputs=True)
        return np.array(found[0], dtype=np.float32)

    def close(self) -> None:  # noqa: D102
        self._request = self._network = None


def _reason(error: RuntimeError) -> str:
    """Return the last line of a message of OpenVINO. The lines before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
