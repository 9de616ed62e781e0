"""Whether an exported network says what PyTorch says."""

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
"""How far a logit may be off, in units of the largest one; what int8 costs is measured in accuracy."""


def check_agreement(
    file: Path,
    runtime: str,
    classifier: Classifier,
    facts: DataFacts,
    images: NDArray[np.float32] | None = None,
    precision: str = "fp32",
) -> float:
    """The largest difference between the logits of ``file`` and those of PyTorch, in batches of 1, 2 and 5.

    Args:
        file: an exported network.
        runtime: what opens it.
        classifier: stays as it is.
        facts: the data that it was built for.
        images: float32 in [0, 1], ``(N, C, H, W)``; by default noise.
        precision: of the file.

    Raises:
        UserError: they differ by more than the precision explains, or are no numbers.
    """
    if images is None:
        shape = (max(_BATCHES), facts.channels, facts.image_size, facts.image_size)
        images = torch.rand(shape, generator=position_generator(0, "agreement")).numpy()
    told = "bf16" if precision == "bf16" else None
    largest = scale = 0.0
    with open_runtime(file, runtime, precision=told) as network:
        for size in _BATCHES:
            wanted = logits_of(classifier, images[:size])
            found = network(images[:size])
            if not np.isfinite(found).all():
                raise UserError(f"the exported network gives logits that are no numbers in {precision} ({runtime})")
            largest = max(largest, float(np.abs(found - wanted).max()))
            scale = max(scale, float(np.abs(wanted).max()))
    if largest > _TOLERANCE[precision] * max(scale, 1.0):
        raise UserError(
            f"the exported network does not say what PyTorch says: its logits differ by {largest:.2g} in {precision} "
            f"({runtime}), and the largest is {scale:.2g}"
        )
    return largest


def logits_of(classifier: Classifier, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """PyTorch's logits in evaluation mode; every part of the classifier keeps its mode."""
    with evaluating(classifier), torch.inference_mode():
        found = classifier(torch.from_numpy(images).to(classifier.mean.device))
        logits: NDArray[np.float32] = found.float().cpu().numpy()
        return logits
