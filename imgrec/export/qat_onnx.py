"""Export of a classifier after quantization-aware training to an int8 ONNX file."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.compress.quantization.int8 import to_int8
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.export.description import describe_network
from imgrec.export.export_folder import Export, export_aside, write_description
from imgrec.export.formats.onnx import OnnxFormat
from imgrec.export.metadata import embed_description
from imgrec.export.onnx_writer import write_onnx
from imgrec.export.runtimes.registry import open_runtime
from imgrec.export.verify import check_agreement, logits_of
from imgrec.types import DataFacts
from imgrec.utils.optional import require

NAME = "onnx-int8-qat"
"""Name of the export in the run folder."""


def export_qat(
    quantized: QuantizedClassifier,
    facts: DataFacts,
    folder: str | Path,
    images: NDArray[np.float32] | None = None,
) -> Export:
    """Export a quantization-aware classifier to a folder with model.onnx, in QDQ format, and export.json.

    The logits of ONNX Runtime are compared with those of the simulated quantization in PyTorch. Both round in the same
    way. They differ by the order of summation, and by one quantization step if a value is halfway between two steps.

    Args:
        quantized: Classifier on any device and in any mode. It is not changed.
        facts: Facts of the data that the classifier was built for.
        folder: New or empty folder, or an export, which is replaced as a whole.
        images: Images for the comparison, float32 in [0, 1], ``(N, C, H, W)``. The share of them with the same
            predicted class is stored in export.json as ``agreement``. Defaults to noise, without this share.

    Raises:
        UserError: If the network cannot be exported, its logits are NaN or infinite, a package is missing, or the
            folder contains other files.
    """
    with export_aside(folder) as aside:
        file = write_onnx(to_int8(quantized), facts, aside / OnnxFormat.files[0])
        difference = check_agreement(file, "onnxruntime", quantized, facts, images, "int8")
        about: dict[str, Any] = {
            "method": "qat",
            "kernels": int8_kernels(file),
            "kept_layers": sorted(quantized.float_layers),
        }
        if images is not None:
            with open_runtime(file, "onnxruntime") as network:
                same = network(images).argmax(1) == logits_of(quantized, images).argmax(1)
            about |= {"agreement": float(same.mean()), "images": len(images)}
        description = describe_network(facts, quantized.mean, quantized.std)
        embed_description(file, description)
        export = Export(Path(folder), "onnx", "int8", facts, difference, about, description.to_dict())
        write_description(aside, export)
    return export


def int8_kernels(file: Path) -> dict[str, int]:
    """Return the number of int8 kernels of each type that ONNX Runtime selects for a file on this machine."""
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
