"""ROC curves, one class against the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.calibration import check_probabilities

DRAWN_POINTS = 200
"""Maximum number of points of a curve."""


@dataclass(frozen=True, eq=False)
class RocCurve:
    """ROC curve of one class against the rest.

    Attributes:
        fpr: False positive rates, at most 200 points.
        tpr: True positive rates at these points.
        auc: Area under the full curve.
    """

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    auc: float


@dataclass(frozen=True, eq=False)
class RocCurves:
    """ROC curves of all classes.

    Attributes:
        by_class: Curve of each class by class index.
        macro: Average of the curves, or ``None`` if no class has a curve.
        absent: Indices of the classes without a curve, because no image or every image is of the class.
    """

    by_class: dict[int, RocCurve]
    macro: RocCurve | None
    absent: tuple[int, ...]


def roc_area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Compute the area under a ROC curve: the probability that a positive image scores higher than a negative one.

    Equal scores count one half, which is the area under the straight lines between the points of the curve.

    Args:
        scores: Score of each image, shape ``(N,)``.
        positive: True for each positive image, shape ``(N,)``, with at least one positive and one negative image.

    Source: Hanley and McNeil, 1982, doi:10.1148/radiology.143.1.7063747.

    >>> roc_area(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    all_scores, own = np.sort(scores), np.sort(scores[positive])
    below = sum(
        np.searchsorted(all_scores, own, side).sum() - np.searchsorted(own, own, side).sum()
        for side in ("left", "right")
    )
    return float(below) / 2 / (len(own) * (len(all_scores) - len(own)))


def roc_points(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the false and true positive rates at each threshold, from (0, 0) to (1, 1), without collinear points.

    Args:
        scores: Score of each image, shape ``(N,)``.
        positive: True for each positive image, shape ``(N,)``, with at least one positive and one negative image.

    >>> fpr, tpr = roc_points(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last image of each distinct score
    true = np.cumsum(positive[order])[last]
    false = 1 + last - true
    if len(last) > 2:
        bends = np.flatnonzero(np.concatenate([[True], (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0), [True]]))
        true, false = true[bends], false[bends]
    return np.append(0, false) / false[-1], np.append(0, true) / true[-1]


def roc_curves(probabilities: ArrayLike, targets: ArrayLike) -> RocCurves:
    """Compute the ROC curve of each class against the rest, and their average.

    The macro area is the mean of the areas of the classes. The macro curve is the mean true positive rate at each false
    positive rate. Areas are those of the full curves. The points are thinned for drawing afterwards.

    Args:
        probabilities: Probabilities of shape ``(N, C)``.
        targets: Class indices of shape ``(N,)``.

    Raises:
        ValueError: If the shapes do not match, or a probability is outside [0, 1] or NaN.

    Source: Fawcett, 2006, doi:10.1016/j.patrec.2005.10.010.
    """
    values, labels = check_probabilities(probabilities, targets)
    curves: dict[int, RocCurve] = {}
    absent: list[int] = []
    grid = np.linspace(0.0, 1.0, 1001)
    mean = np.zeros_like(grid)
    for index in range(values.shape[1]):
        positive = labels == index
        if not positive.any() or positive.all():
            absent.append(index)
            continue
        fpr, tpr = roc_points(values[:, index], positive)
        curves[index] = RocCurve(*_thinned(fpr, tpr), auc=roc_area(values[:, index], positive))
        mean += np.interp(grid, fpr, tpr)  # numpy.interp uses the last of equal abscissas: the top of a vertical rise
    if not curves:
        return RocCurves({}, None, tuple(absent))
    fpr, tpr = np.concatenate([[0.0], grid]), np.concatenate([[0.0], mean / len(curves)])
    macro = RocCurve(*_thinned(fpr, tpr), auc=float(np.mean([curve.auc for curve in curves.values()])))
    return RocCurves(curves, macro, tuple(absent))


def _thinned(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most ``DRAWN_POINTS`` points, evenly spread along the curve, with both ends."""
    if len(fpr) <= DRAWN_POINTS:
        return fpr, tpr
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(fpr)) + np.abs(np.diff(tpr)))])
    positions = np.linspace(0.0, length[-1], DRAWN_POINTS)
    kept = np.unique(np.clip(np.searchsorted(length, positions), 0, len(length) - 1))
    kept[-1] = len(length) - 1
    return fpr[kept], tpr[kept]
