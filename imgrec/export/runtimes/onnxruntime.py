"""An ONNX file in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imgrec.errors import UserError
from imgrec.export.runtimes.base import Images, Logits, Runtime
from imgrec.utils.optional import require

_TYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntime(Runtime):
    """ONNX Runtime with all graph optimizations; see :func:`imgrec.export.runtimes.registry.open_runtime`."""

    kind = "onnxruntime"

    def __init__(self, file: Path, precision: str, threads: int, device: str) -> None:
        onnxruntime = require("onnxruntime", "export", "ONNX Runtime")
        self.precision = precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session: Any = onnxruntime.InferenceSession(str(file), options, providers=[_provider(device)])
        except Exception as error:  # its exceptions share no base class but Exception
            raise UserError(f"{file} cannot be opened by ONNX Runtime: {_first_line(error)}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
            has = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise UserError(f"{file}: expected one input of images, float (N, C, H, W); it has {has}")
        self._name = inputs[0].name
        self._type = _TYPES[inputs[0].type]
        batch, *shape = (length if isinstance(length, int) else 0 for length in inputs[0].shape)
        self.batch_size = batch or None
        self.image_shape = (shape[0], shape[1], shape[2])

    def __call__(self, images: Images) -> Logits:  # noqa: D102
        self.check(images)
        feed = {self._name: np.ascontiguousarray(images, dtype=self._type)}
        return np.asarray(self._session.run(None, feed)[0], dtype=np.float32)

    def close(self) -> None:  # noqa: D102
        self._session = None


def _provider(device: str) -> Any:
    if device == "cpu":
        return "CPUExecutionProvider"
    onnxruntime = require("onnxruntime", "export", "ONNX Runtime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError(
            "the installed ONNX Runtime was built without CUDA: device: cpu, or pip install onnxruntime-gpu"
        )
    return ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)})


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
