"""Export of a classifier to a folder with a network file and export.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgrec.export.description import describe_network
from imgrec.export.export_folder import Export, check_choice, export_aside, write_description
from imgrec.export.formats.registry import default_runtime, find_format
from imgrec.export.metadata import embed_description
from imgrec.export.verify import check_agreement
from imgrec.models import Classifier
from imgrec.types import DataFacts


def export_network(
    classifier: Classifier,
    facts: DataFacts,
    folder: str | Path,
    format: str = "onnx",
    precision: str = "fp32",
    images: NDArray[np.float32] | None = None,
) -> Export:
    """Export a classifier to a folder with a network file and export.json.

    The network accepts batches of any size and normalizes the images itself. Its logits in the default runtime of the
    format are compared with those of PyTorch, in several batch sizes, before the folder is replaced.

    Args:
        classifier: Classifier on any device and in any mode. It is not changed.
        facts: Facts of the data that the classifier was built for.
        folder: New or empty folder, or an export, which is replaced as a whole.
        format: Name in :data:`imgrec.FORMATS`. Defaults to ``onnx``.
        precision: One of the ``precisions`` of the format. Defaults to ``fp32``.
        images: Images for the comparison, float32 in [0, 1], ``(N, C, H, W)``. Defaults to noise.

    Raises:
        UserError: If the network cannot be exported, its logits differ, a package is missing, or the folder contains
            other files.
    """
    kind = find_format(format)
    check_choice(precision, kind.precisions, "precision")
    kind.require()
    with export_aside(folder) as aside:
        file = kind.write(classifier, facts, aside / kind.files[0], precision)
        difference = check_agreement(file, default_runtime(format), classifier, facts, images, precision)
        description = describe_network(facts, classifier.mean, classifier.std)
        embed_description(file, description)
        export = Export(Path(folder), format, precision, facts, difference, description=description.to_dict())
        write_description(aside, export)
    return export


def export_onnx(
    classifier: Classifier,
    facts: DataFacts,
    folder: str | Path,
    precision: str = "fp32",
    images: NDArray[np.float32] | None = None,
) -> Export:
    """Export a classifier to ONNX. See :func:`export_network`."""
    return export_network(classifier, facts, folder, "onnx", precision, images)


def export_openvino(
    classifier: Classifier,
    facts: DataFacts,
    folder: str | Path,
    precision: str = "fp32",
    images: NDArray[np.float32] | None = None,
) -> Export:
    """Export a classifier to OpenVINO IR. See :func:`export_network`."""
    return export_network(classifier, facts, folder, "openvino", precision, images)
