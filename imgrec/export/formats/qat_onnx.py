"""What quantization-aware training ends in: an ONNX file with int8 kernels, which says what the training saw."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.compress.quantization.int8 import to_int8
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.export.description import describe
from imgrec.export.export_folder import FORMATS, Export, export_aside, write_description
from imgrec.export.formats.metadata import embed
from imgrec.export.formats.onnx import write_onnx
from imgrec.export.runtimes.registry import open_runtime
from imgrec.export.verify import check_agreement, logits_of
from imgrec.types import DataFacts
from imgrec.utils.optional import require

NAME = "onnx-int8-qat"
"""The folder's name among a run's exports."""


def export_qat(
    quantized: QuantizedClassifier,
    facts: DataFacts,
    folder: str | Path,
    images: NDArray[np.float32] | None = None,
) -> Export:
    """Write a network that was trained quantization-aware as a folder with model.onnx, in QDQ format, and export.json.

    ONNX Runtime's logits are compared with those that the network gave in training's floating point: the rounding is
    the same, so that they differ by the order of sums, and where a value lay between two whole numbers.

    Args:
        quantized: on any device and in any mode; it stays as it is.
        facts: the data that it was built for.
        folder: a new or empty folder, or an export, which is replaced as a whole.
        images: what the logits are compared on, float32 in [0, 1], ``(N, C, H, W)``; by default noise. Of given ones,
            the share that is named the same is kept in export.json, as ``agreement``.

    Raises:
        UserError: the network cannot be exported, or gives logits that are no numbers; a package is missing; the folder
            holds something else.
    """
    with export_aside(folder) as aside:
        file = write_onnx(to_int8(quantized), facts, aside / FORMATS["onnx"])
        difference = check_agreement(file, "onnxruntime", quantized, facts, images, "int8")
        about: dict[str, Any] = {
            "method": "qat",
            "kernels": int8_kernels(file),
            "kept_layers": sorted(quantized.left),
        }
        if images is not None:
            with open_runtime(file, "onnxruntime") as network:
                same = network(images).argmax(1) == logits_of(quantized, images).argmax(1)
            about |= {"agreement": float(same.mean()), "images": len(images)}
        description = describe(facts, quantized.mean, quantized.std)
        embed(file, description)
        export = Export(Path(folder), "onnx", "int8", facts, difference, about, description.to_dict())
        write_description(aside, export)
    return export


def int8_kernels(file: Path) -> dict[str, int]:
    """Which kernels for int8 ONNX Runtime takes for a file on this machine, and how many of each."""
    onnx = require("onnx", "export", "int8 for ONNX Runtime")
    runtime = require("onnxruntime", "export", "int8 for ONNX Runtime")
    with tempfile.TemporaryDirectory() as place:
        options = runtime.SessionOptions()
        options.optimized_model_filepath = str(Path(place) / "optimized.onnx")
        options.log_severity_level = 3
        runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        found = onnx.load(options.optimized_model_filepath)
    kernels = Counter(node.op_type for node in found.graph.node)
    return {name: count for name, count in sorted(kernels.items()) if name == "QGemm" or _is_whole(name)}


def _is_whole(kernel: str) -> bool:
    return "QLinear" in kernel or "Integer" in kernel
