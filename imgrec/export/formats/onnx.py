"""A classifier as an ONNX file."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imgrec.compress.quantization.onnx_graph import name_nodes
from imgrec.compress.quantization.onnx_weight_only import half_weights
from imgrec.errors import UserError
from imgrec.export.description import describe
from imgrec.export.export_folder import FORMATS, Export, check_choice, export_aside, write_description
from imgrec.export.formats.metadata import embed
from imgrec.export.verify import check_agreement
from imgrec.models import Classifier
from imgrec.types import DataFacts
from imgrec.utils.optional import require


def export_onnx(
    classifier: Classifier,
    facts: DataFacts,
    folder: str | Path,
    precision: str = "fp32",
    images: NDArray[np.float32] | None = None,
) -> Export:
    """Write a classifier as a folder with model.onnx and export.json.

    The network takes batches of any size and normalizes its images itself. ONNX Runtime's logits are compared with
    PyTorch's, in several batch sizes, before the folder takes its place.

    Args:
        classifier: on any device and in any mode; it stays as it is.
        facts: the data that it was built for.
        folder: a new or empty folder, or an export, which is replaced as a whole.
        precision: ``fp32``; or ``fp16``, which stores the weights in half the bytes and computes in float32.
        images: what the logits are compared on, float32 in [0, 1], ``(N, C, H, W)``; by default noise.

    Raises:
        UserError: the network cannot be exported, or its logits differ; a package is missing; the folder holds
            something else.
    """
    check_choice(precision, ("fp32", "fp16"), "precision")
    with export_aside(folder) as aside:
        file = write_onnx(classifier, facts, aside / FORMATS["onnx"])
        if precision == "fp16":
            half_weights(file)
        difference = check_agreement(file, "onnxruntime", classifier, facts, images, precision)
        description = describe(facts, classifier.mean, classifier.std)
        embed(file, description)
        export = Export(Path(folder), "onnx", precision, facts, difference, description=description.to_dict())
        write_description(aside, export)
    return export


def write_onnx(classifier: Classifier, facts: DataFacts, file: Path) -> Path:
    """Write the bare file in float32, its nodes named after the layers of the classifier.

    Raises:
        UserError: the network holds an operator that ONNX has no word for, or does what cannot be traced.
    """
    onnx = require("onnx", "export", "ONNX export")
    require("onnxscript", "export", "ONNX export")
    network = _plain(classifier)
    example = torch.rand(2, facts.channels, facts.image_size, facts.image_size)  # a batch of 1 would be taken as fixed
    try:
        with warnings.catch_warnings(), _quiet("torch.onnx", "onnxscript"), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # the exporter's stages raise what they like
        raise UserError(f"the network cannot be exported to ONNX: {_reason(error)}") from error
    model = program.model_proto
    name_nodes(model)
    for node in model.graph.node:
        del node.metadata_props[:]  # traces of the source files, with their paths
    constants = {each.name for each in model.graph.initializer}
    shapes = [each for each in model.graph.value_info if each.name not in constants]  # who transposes one, forgets it
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    onnx.save(model, str(file))
    return file


def _plain(classifier: Classifier) -> Classifier:
    """A copy on the CPU, in float32 and evaluation mode; an order of pixels in memory means nothing in a graph."""
    network = copy.deepcopy(classifier).cpu().float().eval()
    network.channels_last = False
    return network.to(memory_format=torch.contiguous_format)


class _quiet:  # noqa: N801
    """Silences some loggers for a while."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """What went wrong at the bottom, in one line: the exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
