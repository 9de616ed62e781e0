"""A classifier as OpenVINO's own files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError
from imgrec.export.description import describe
from imgrec.export.export_folder import FORMATS, Export, check_choice, export_aside, write_description
from imgrec.export.formats.metadata import embed
from imgrec.export.formats.onnx import write_onnx
from imgrec.export.verify import check_agreement
from imgrec.models import Classifier
from imgrec.types import DataFacts
from imgrec.utils.optional import require


def export_openvino(
    classifier: Classifier,
    facts: DataFacts,
    folder: str | Path,
    precision: str = "fp32",
    images: NDArray[np.float32] | None = None,
) -> Export:
    """Write a classifier as a folder with model.xml, model.bin and export.json, by way of ONNX.

    The network takes batches of any size and normalizes its images itself. OpenVINO's logits are compared with
    PyTorch's, in several batch sizes, before the folder takes its place.

    Args:
        classifier: on any device and in any mode; it stays as it is.
        facts: the data that it was built for.
        folder: a new or empty folder, or an export, which is replaced as a whole.
        precision: ``fp32``; ``fp16``, which stores the weights in half the bytes and computes in float32; or ``bf16``,
            which computes in bfloat16 beside that: fast on processors that have it.
        images: what the logits are compared on, float32 in [0, 1], ``(N, C, H, W)``; by default noise.

    Raises:
        UserError: the network cannot be exported, or its logits differ; a package is missing; the folder holds
            something else.
    """
    check_choice(precision, ("fp32", "fp16", "bf16"), "precision")
    require("openvino", "openvino", "OpenVINO export")
    with export_aside(folder) as aside:
        with tempfile.TemporaryDirectory() as place:
            source = write_onnx(classifier, facts, Path(place) / FORMATS["onnx"])
            file = to_openvino(source, aside / FORMATS["openvino"], half=precision != "fp32")
        difference = check_agreement(file, "openvino", classifier, facts, images, precision)
        description = describe(facts, classifier.mean, classifier.std)
        embed(file, description)
        export = Export(Path(folder), "openvino", precision, facts, difference, description=description.to_dict())
        write_description(aside, export)
    return export


def to_openvino(source: Path, target: Path, half: bool = False) -> Path:
    """Convert an ONNX file; ``target`` ends in ``.xml``, and its weights stand beside it, in float16 if wanted."""
    openvino = require("openvino", "openvino", "OpenVINO export")
    try:
        network = openvino.convert_model(str(source))
    except RuntimeError as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1:]
        raise UserError(f"OpenVINO cannot convert the network: {' '.join(reason)[:300]}") from error
    openvino.save_model(network, str(target), compress_to_fp16=half)
    return target
