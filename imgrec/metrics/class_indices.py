"""The check of class indices that belong to rows of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def class_indices(targets: ArrayLike, scores: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the targets as int64 ``(N,)``.

    Args:
        targets: class indices, one for each row of the scores.
        scores: logits or probabilities, expected to be ``(N, C)``.

    Raises:
        ValueError: If the shapes do not match, or a target is not a class.

    >>> class_indices([1, 0], np.zeros((2, 3)))
    array([1, 0])
    """
    labels = np.asarray(targets)
    if scores.ndim != 2 or scores.shape[1] == 0 or labels.shape != scores.shape[:1]:
        raise ValueError(f"expected (N, C) and (N,), got {scores.shape} and {labels.shape}")
    if len(labels) and not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"targets: expected class indices, got {labels.dtype}")
    labels = labels.astype(np.int64)
    if len(labels) and (labels.min() < 0 or labels.max() >= scores.shape[1]):
        raise ValueError(f"targets between {labels.min()} and {labels.max()} for {scores.shape[1]} classes")
    return labels
