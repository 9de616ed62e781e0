"""Calibration: the agreement of the confidence of predictions with their accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.class_indices import class_indices

CALIBRATION_BINS = 15
"""Number of bins of equal width of the expected calibration error."""


@dataclass(frozen=True, eq=False)
class ReliabilityBins:
    """Bins of equal width of predictions, sorted by confidence, which is the largest probability of each.

    Attributes:
        edges: Edges of the bins from 0 to 1, shape ``(bins + 1,)``.
        confidence: Mean confidence of each bin, shape ``(bins,)``. NaN for an empty bin.
        accuracy: Mean accuracy of each bin, shape ``(bins,)``. NaN for an empty bin.
        count: Number of predictions in each bin, int64 ``(bins,)``.
    """

    edges: NDArray[np.float64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between confidence and accuracy, each bin weighted by its count. NaN without samples."""
        total = self.count.sum()
        if not total:
            return float("nan")
        filled = self.count > 0
        distance = np.abs(self.confidence[filled] - self.accuracy[filled])
        return float((distance * self.count[filled]).sum() / total)


def reliability(probabilities: ArrayLike, targets: ArrayLike, bins: int = CALIBRATION_BINS) -> ReliabilityBins:
    """Sort predictions into bins by confidence, for a reliability diagram.

    A bin includes its upper edge and excludes its lower edge. The first bin also includes 0.

    Args:
        probabilities: Probabilities of shape ``(N, C)``.
        targets: Class indices of shape ``(N,)``.
        bins: Number of bins, 1 or more. Defaults to 15.

    Raises:
        ValueError: If the shapes do not match, ``bins`` is below 1, or a probability is outside [0, 1] or NaN.

    Source: DeGroot and Fienberg, 1983, doi:10.2307/2987588 (reliability diagrams); Guo et al., 2017, arXiv:1706.04599.

    >>> round(reliability([[0.9, 0.1], [0.9, 0.1]], [0, 1]).expected_calibration_error, 4)
    0.4
    """
    values, labels = check_probabilities(probabilities, targets)
    return bin_by_confidence(values.max(axis=1), values.argmax(axis=1) == labels, bins)


def bin_by_confidence(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = CALIBRATION_BINS
) -> ReliabilityBins:
    """Sort predictions into bins by the probability of the predicted class.

    Args:
        confidence: Probability of the predicted class, shape ``(N,)``.
        correct: True for each correct prediction, shape ``(N,)``.
        bins: Number of bins, 1 or more. Defaults to 15.

    Raises:
        ValueError: If ``bins`` is below 1.
    """
    if bins < 1:
        raise ValueError(f"bins: expected 1 or more, got {bins}")
    edges = np.linspace(0.0, 1.0, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN of an empty bin
        mean_confidence = np.bincount(index, weights=confidence, minlength=bins) / count
        accuracy = np.bincount(index, weights=correct, minlength=bins) / count
    return ReliabilityBins(edges, mean_confidence, accuracy, count.astype(np.int64))


def check_probabilities(probabilities: ArrayLike, targets: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return probabilities and targets as arrays, ``(N, C)`` and ``(N,)``.

    Raises:
        ValueError: If the shapes do not match, a target is not a class, or a value is not a probability.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    labels = class_indices(targets, values)
    if not ((values >= 0) & (values <= 1 + 1e-6)).all():
        raise ValueError("probabilities: expected values between 0 and 1, got others or NaN (were these logits?)")
    return values, labels
