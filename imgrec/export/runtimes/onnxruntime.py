"""Runtime of ONNX files: ONNX Runtime, on a CPU or a CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from imgrec.errors import UserError
from imgrec.export.runtimes.base import RUNTIMES, Images, Logits, OpenOptions, Runtime

_TYPES: dict[str, type[np.floating[Any]]] = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


@RUNTIMES.register("onnxruntime")
class OnnxRuntime(Runtime):
    """ONNX Runtime with all graph optimizations.

    Opens ``.onnx`` files on ``cpu`` and, if the installed package was built with CUDA, on ``cuda``. It computes in the
    precision of the file. Requires the extra ``export``.

    Args:
        network: File ``.onnx``.
        options: Precision of the file, threads and device.

    Raises:
        UserError: If the package is missing, the file cannot be opened, or its inputs are not one batch of images.

    Example:
        >>> from imgrec import RUNTIMES
        >>> RUNTIMES.entry("onnxruntime").factory.suffixes
        ('.onnx',)
    """

    title = "ONNX Runtime"
    short_title = "ORT"
    suffixes = (".onnx",)
    devices = ("cpu", "cuda")
    package = ("onnxruntime", "export")
    order = 2
    marker = "^"

    def __init__(self, network: Path, options: OpenOptions) -> None:
        onnxruntime = self.require()
        self.precision = options.stored
        session = onnxruntime.SessionOptions()
        session.intra_op_num_threads = options.threads
        session.inter_op_num_threads = 1
        session.log_severity_level = 3
        provider = _provider(onnxruntime, options.device)
        try:
            self._session: Any = onnxruntime.InferenceSession(str(network), session, providers=[provider])
        except Exception as error:  # its exceptions have no common base class except Exception
            raise UserError(f"{network} cannot be opened by ONNX Runtime: {_first_line(error)}") from error
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].type not in _TYPES:
            found = ", ".join(f"{each.name} {each.type} {each.shape}" for each in inputs)
            raise UserError(f"{network}: expected one input of images, float (N, C, H, W), got {found}.")
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


def _provider(onnxruntime: Any, device: str) -> Any:
    """Return the execution provider of a device."""
    if device == "cpu":
        return "CPUExecutionProvider"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise UserError(
            f"device: expected cpu, got {device}. The installed ONNX Runtime was built without CUDA. "
            "Install onnxruntime-gpu to use a GPU."
        )
    return ("CUDAExecutionProvider", {"device_id": int(device.partition(":")[2] or 0)})


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
