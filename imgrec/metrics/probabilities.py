"""Softmax in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def log_softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Compute the logarithm of the softmax, ``(N, C)`` to ``(N, C)``.

    The largest logit of each row is subtracted first, so nothing overflows. A logit of ``-inf`` gives ``-inf``. A row
    that contains NaN or ``+inf`` gives NaN.

    Raises:
        ValueError: If there is no class.

    >>> log_softmax([[1000.0, 1000.0]]).round(4).tolist()
    [[-0.6931, -0.6931]]
    """
    values = np.asarray(logits, dtype=np.float64)
    if values.shape[-1] == 0:
        raise ValueError("logits: expected at least one class, got none")
    with np.errstate(invalid="ignore"):  # inf - inf is the documented NaN
        shifted = values - values.max(axis=-1, keepdims=True)
        normalized: NDArray[np.float64] = shifted - log_sum_exp(shifted)[..., None]
    return normalized


def log_sum_exp(shifted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the logarithm of the sum of exponentials over the last axis.

    The terms are added in the order of their size. Rows with the same logits in another order therefore have exactly
    the same sum, and images of equal probability stay ties.

    Args:
        shifted: logits minus the largest of each row.
    """
    found: NDArray[np.float64] = np.log(np.sort(np.exp(shifted), axis=-1).sum(axis=-1))
    return found


def softmax(logits: ArrayLike) -> NDArray[np.float64]:
    """Compute the softmax of logits. Shapes and special values are those of :func:`log_softmax`.

    >>> softmax([[0.0, 0.0, float("-inf")]]).tolist()
    [[0.5, 0.5, 0.0]]
    """
    return np.exp(log_softmax(logits))
