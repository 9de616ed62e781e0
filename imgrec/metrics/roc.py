"""ROC curves, one class against the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.calibration import checked

DRAWN_POINTS = 200


@dataclass(frozen=True, eq=False)
class RocCurve:
    """One curve: false and true positive rates, ``fpr`` and ``tpr``, at most 200 points; the area under all of it."""

    fpr: NDArray[np.float64]
    tpr: NDArray[np.float64]
    auc: float


@dataclass(frozen=True, eq=False)
class RocCurves:
    """The curve of each class, by class index, and their ``macro`` average.

    ``absent`` names the classes that have no curve, since no image is of them or every one is; ``macro`` is ``None``
    where no class has a curve.
    """

    by_class: dict[int, RocCurve]
    macro: RocCurve | None
    absent: tuple[int, ...]


def roc_area(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Compute the area under a ROC curve: the probability that a positive image scores higher than a negative one.

    Equal scores count one half, which is the area under the straight lines between the points of the curve.

    Shapes: both ``(N,)``, with at least one positive and one negative image.

    Source: Hanley and McNeil, 1982, doi:10.1148/radiology.143.1.7063747.

    >>> roc_area(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    everyone, own = np.sort(scores), np.sort(scores[positive])
    below = sum(
        np.searchsorted(everyone, own, side).sum() - np.searchsorted(own, own, side).sum() for side in ("left", "right")
    )
    return float(below) / 2 / (len(own) * (len(everyone) - len(own)))


def roc_curves(probabilities: ArrayLike, targets: ArrayLike) -> RocCurves:
    """The ROC curve of each class against the rest, and their average.

    The macro area is the plain mean of the classes' areas; the macro curve is the mean true positive rate at each false
    positive rate. Areas are those of the full curves; the points are thinned for drawing afterwards.

    Shapes: ``probabilities`` ``(N, C)``, ``targets`` class indices ``(N,)``.

    Raises:
        ValueError: the shapes do not belong together, or a probability lies outside [0, 1] or is NaN.

    Source: Fawcett, 2006, doi:10.1016/j.patrec.2005.10.010.
    """
    from sklearn.metrics import roc_curve

    values, labels = checked(probabilities, targets)
    curves: dict[int, RocCurve] = {}
    absent: list[int] = []
    grid = np.linspace(0.0, 1.0, 1001)
    mean = np.zeros_like(grid)
    for index in range(values.shape[1]):
        positive = labels == index
        if not positive.any() or positive.all():
            absent.append(index)
            continue
        fpr, tpr, _ = roc_curve(positive, values[:, index])
        curves[index] = RocCurve(*_thinned(fpr, tpr), auc=roc_area(values[:, index], positive))
        mean += np.interp(grid, fpr, tpr)  # at a vertical rise: its top, for numpy takes the last of equal abscissas
    if not curves:
        return RocCurves({}, None, tuple(absent))
    fpr, tpr = np.concatenate([[0.0], grid]), np.concatenate([[0.0], mean / len(curves)])
    macro = RocCurve(*_thinned(fpr, tpr), auc=float(np.mean([curve.auc for curve in curves.values()])))
    return RocCurves(curves, macro, tuple(absent))


def _thinned(fpr: NDArray[np.float64], tpr: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most ``DRAWN_POINTS`` of the points, evenly spread along the curve, both ends among them."""
    if len(fpr) <= DRAWN_POINTS:
        return fpr, tpr
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(fpr)) + np.abs(np.diff(tpr)))])
    wanted = np.linspace(0.0, length[-1], DRAWN_POINTS)
    kept = np.unique(np.clip(np.searchsorted(length, wanted), 0, len(length) - 1))
    kept[-1] = len(length) - 1
    return fpr[kept], tpr[kept]
