"""An ONNX file or OpenVINO's own in OpenVINO, on the processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imgrec.errors import UserError
from imgrec.export.runtimes.base import Images, Logits, Runtime
from imgrec.utils.optional import require

_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}


class OpenVinoRuntime(Runtime):
    """See :func:`imgrec.export.runtimes.registry.open_runtime`.

    Args:
        file: a ``.onnx`` or ``.xml`` file.
        own: the precision that the file says: of its numbers, not of what is computed with them.
        told: what is to be computed in what is not quantized, or ``None``: bf16 for a file that says so, else fp32.
        threads: how many compute.
    """

    kind = "openvino"

    def __init__(self, file: Path, own: str, told: str | None, threads: int) -> None:
        openvino = require("openvino", "openvino", "OpenVINO")
        computed = told or ("bf16" if own == "bf16" else "fp32")
        self.precision = own if told is None else told
        if own == "int8" and told is not None:
            self.precision = f"int8+{told}"
        core = openvino.Core()
        config = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": "1",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": _HINTS[computed],
            "ENABLE_CPU_PINNING": False,  # the caller says which cores
        }
        try:
            self._network: Any = core.compile_model(core.read_model(str(file)), "CPU", config)
        except RuntimeError as error:
            raise UserError(f"{file} cannot be opened by OpenVINO: {_reason(error)}") from error
        inputs = self._network.inputs
        shape = inputs[0].partial_shape if len(inputs) == 1 else None
        if shape is None or shape.rank.is_dynamic or len(shape) != 4:
            has = ", ".join(f"{sorted(each.names)} {each.partial_shape}" for each in inputs)
            raise UserError(f"{file}: expected one input of images, (N, C, H, W); it has {has}")
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
    """The last line that says something: OpenVINO names its own source files first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
