"""Export of a classifier to an ONNX file with torch.onnx."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from imgrec.compress.quantization.onnx_graph import name_nodes
from imgrec.errors import UserError
from imgrec.models import Classifier
from imgrec.types import DataFacts
from imgrec.utils.optional import require


def write_onnx(classifier: Classifier, facts: DataFacts, file: Path) -> Path:
    """Write a classifier as an ONNX file in float32, with nodes named after the layers of the classifier.

    Args:
        classifier: Classifier on any device and in any mode. It is not changed.
        facts: Facts of the data that the classifier was built for.
        file: File to write, in an existing folder.

    Raises:
        UserError: If a package is missing, or the network has an operator without a counterpart in ONNX or cannot be
            traced.
    """
    onnx = require("onnx", "export", "ONNX export")
    require("onnxscript", "export", "ONNX export")
    network = _plain(classifier)
    example = torch.rand(
        2, facts.channels, facts.image_size, facts.image_size
    )  # a batch of 1 would be exported as a fixed size
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
    except Exception as error:  # the exporter raises exceptions of many classes
        raise UserError(f"the network cannot be exported to ONNX: {_reason(error)}") from error
    model = program.model_proto
    name_nodes(model)
    for node in model.graph.node:
        del node.metadata_props[:]  # stack traces with paths of source files
    constants = {each.name for each in model.graph.initializer}
    shapes = [
        each for each in model.graph.value_info if each.name not in constants
    ]  # optimizers that transpose a constant keep a wrong shape
    del model.graph.value_info[:]
    model.graph.value_info.extend(shapes)
    onnx.save(model, str(file))
    return file


def _plain(classifier: Classifier) -> Classifier:
    """Return a copy on the CPU, contiguous, in float32 and in evaluation mode."""
    network = copy.deepcopy(classifier).cpu().float().eval()
    network.channels_last = False
    return network.to(memory_format=torch.contiguous_format)


class _quiet:  # noqa: N801
    """Context manager that silences loggers."""

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
    """Return the first line of the innermost cause. The exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
