"""Comparison of the logits of an exported network with those of PyTorch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imgrec.errors import UserError
from imgrec.export.runtimes.registry import open_runtime
from imgrec.models import Classifier
from imgrec.models.utils.forward import evaluating
from imgrec.types import DataFacts
from imgrec.utils.seeding import position_generator

_BATCHES = (1, 2, 5)
_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 0.2, "int8": float("inf")}
"""Largest accepted difference of a logit, relative to the largest logit. The cost of int8 is measured in accuracy."""


def check_agreement(
    file: Path,
    runtime: str,
    classifier: Classifier,
    facts: DataFacts,
    images: NDArray[np.float32] | None = None,
    precision: str = "fp32",
) -> float:
    """Return the largest difference between the logits of a file and those of PyTorch, in batches of 1, 2 and 5.

    Args:
        file: Exported network.
        runtime: Name of the runtime that opens it.
        classifier: Classifier that was exported. It is not changed.
        facts: Facts of the data that it was built for.
        images: Images, float32 in [0, 1], ``(N, C, H, W)``. Defaults to noise.
        precision: Precision of the file. Defaults to ``fp32``.

    Raises:
        UserError: If the logits differ by more than the precision explains, or are NaN or infinite.
    """
    if images is None:
        shape = (max(_BATCHES), facts.channels, facts.image_size, facts.image_size)
        images = torch.rand(shape, generator=position_generator(0, "agreement")).numpy()
    option = "bf16" if precision == "bf16" else None
    largest = scale = 0.0
    with open_runtime(file, runtime, precision=option) as network:
        for size in _BATCHES:
            expected = logits_of(classifier, images[:size])
            found = network(images[:size])
            if not np.isfinite(found).all():
                raise UserError(f"the exported network computes NaN or infinite logits in {precision} ({runtime}).")
            largest = max(largest, float(np.abs(found - expected).max()))
            scale = max(scale, float(np.abs(expected).max()))
    if largest > _TOLERANCE[precision] * max(scale, 1.0):
        raise UserError(
            f"the exported network and PyTorch disagree: the logits differ by {largest:.2g} in {precision} "
            f"({runtime}), and the largest is {scale:.2g}."
        )
    return largest


def logits_of(classifier: Classifier, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits of PyTorch in evaluation mode. The mode of the classifier is restored."""
    with evaluating(classifier), torch.inference_mode():
        found = classifier(torch.from_numpy(images).to(classifier.mean.device))
        logits: NDArray[np.float32] = found.float().cpu().numpy()
        return logits
