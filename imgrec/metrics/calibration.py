"""Calibration: whether a model that says 80 % is right in 80 % of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.class_indices import class_indices

CALIBRATION_BINS = 15
"""Bins of equal width of the expected calibration error."""


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Predictions sorted into bins of equal width by their confidence, the largest probability of each.

    Shapes: ``edges`` ``(bins + 1,)`` from 0 to 1; ``confidence`` and ``accuracy`` ``(bins,)``, the means over each bin,
    NaN where it is empty; ``count`` int64 ``(bins,)``.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """The mean distance between confidence and accuracy, each bin weighted by its count; NaN without samples."""
        total = self.count.sum()
        if not total:
            return float("nan")
        filled = self.count > 0
        distance = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float((distance * self.count[filled]).sum() / total)


def reliability(probabilities: ArrayLike, targets: ArrayLike, bins: int = CALIBRATION_BINS) -> ReliabilityBins:
    """Sort predictions into bins by confidence; what a reliability diagram draws.

    Shapes: ``probabilities`` ``(N, C)``, ``targets`` ``(N,)``. A bin holds its upper edge and not its lower one, but
    the first holds 0 as well.

    Raises:
        ValueError: the shapes do not belong together, there is no bin, or a probability lies outside [0, 1] or is NaN.

    Source: DeGroot and Fienberg, 1983, doi:10.2307/2987588 (reliability diagrams); Guo et al., 2017, arXiv:1706.04599.
    """
    values, labels = checked(probabilities, targets)
    return bin_by_confidence(values.max(axis=1), values.argmax(axis=1) == labels, bins)


def bin_by_confidence(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> ReliabilityBins:
    """Sort predictions into bins by the probability of the predicted class.

    Shapes: ``confidence`` and ``correct`` ``(N,)``. A bin includes its upper edge, the first also includes 0.

    Raises:
        ValueError: If ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins: expected 1 or more, got {bins}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    place = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean_confidence = np.bincount(place, weights=confidence, minlength=bins) / count
        accuracy = np.bincount(place, weights=correct, minlength=bins) / count
    return ReliabilityBins(edges, mean_confidence, accuracy, count.astype(np.int64))


def expected_calibration_error(probabilities: ArrayLike, targets: ArrayLike, bins: int = CALIBRATION_BINS) -> float:
    """The expected calibration error (ECE) of the predicted class, between 0 and 1; NaN without samples.

    Shapes and errors as in :func:`reliability`.

    Source: Naeini, Cooper and Hauskrecht, 2015, doi:10.1609/aaai.v29i1.9602; Guo et al., 2017, arXiv:1706.04599.

    >>> expected_calibration_error([[0.9, 0.1], [0.9, 0.1]], [0, 1], bins=10)
    0.4
    """
    return reliability(probabilities, targets, bins).expected_calibration_error


def checked(probabilities: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return both as arrays, ``(N, C)`` and ``(N,)``.

    Raises:
        ValueError: If the shapes do not match, a target is not a class, or a value is not a probability.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    labels = class_indices(targets, values)
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError("probabilities: expected values between 0 and 1, got others or NaN (were these logits?)")
    return values, labels
