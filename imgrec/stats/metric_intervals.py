"""Confidence intervals of the metrics of a classification, from the predictions on one set of images."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.classification import roc_columns
from imgrec.metrics.confusion import per_class_of_counts
from imgrec.metrics.per_image import PerImage, per_image
from imgrec.stats.intervals import wilson_interval
from imgrec.utils.ranges import OpenUnitInterval, check_ranges

RESAMPLES = 1000
_MACRO = ("precision_macro", "recall_macro", "f1_macro")

Interval = tuple[float, float]


@check_ranges
def metric_intervals(
    logits: ArrayLike, targets: ArrayLike, level: OpenUnitInterval = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Compute confidence intervals of the metrics of :func:`imgrec.metrics.classification_scores`.

    - ``acc``, ``acc_top5``: Wilson's score interval.
    - ``precision_macro``, ``recall_macro``, ``f1_macro``: percentiles of 1,000 resamples of the images, drawn within
      each true class, so that the number of images per class is fixed.
    - ``auroc``: the variance of the mean of the classes' areas from its structural components, normal on the logit
      scale.
    - ``nll``: percentiles of 1,000 resamples of the images.
    - ``ece`` has none: resampling adds to its bias, and the interval would miss the value itself.

    A metric is absent if its interval has no width, because these images do not determine its uncertainty, or if it is
    not finite.

    Args:
        logits: Logits of shape ``(N, C)``.
        targets: Class indices of shape ``(N,)``.
        level: Confidence level, in (0, 1). Defaults to 0.95.
        seed: Seed of the resamples. Equal input gives equal intervals. Defaults to 0.

    Raises:
        UserError: If ``level`` is out of range.
        ValueError: If the shapes do not match.

    Source: Efron and Tibshirani, 1993, "An Introduction to the Bootstrap" (percentiles); DeLong, DeLong and
    Clarke-Pearson, 1988, doi:10.2307/2531595 (structural components); Pepe, 2003, "The Statistical Evaluation of
    Medical Tests for Classification and Prediction" (logit scale).

    Example:
        >>> low, high = metric_intervals([[1.0, 0.0]] * 9 + [[0.0, 1.0]], [0] * 10)["acc"]
        >>> round(low, 3), round(high, 3)
        (0.596, 0.982)
    """
    images = per_image(logits, targets)
    if not len(images):
        return {}
    found: dict[str, Interval] = {"acc": wilson_interval(int(images.correct.sum()), len(images), level)}
    if images.num_classes > 5:
        found["acc_top5"] = wilson_interval(int((images.rank < 5).sum()), len(images), level)
    ends = [(1 - level) / 2, (1 + level) / 2]
    generator = np.random.default_rng(seed)
    for name, values in zip(_MACRO, _resampled_macro(images, generator), strict=True):
        found[name] = _percentiles(values, ends)
    if images.has_softmax.all():
        found["nll"] = _percentiles(_resampled_means(images.nll, generator), ends)
        found |= _area_interval(images, level)
    return {name: (low, high) for name, (low, high) in found.items() if high > low}


def _percentiles(values: NDArray[np.float64], ends: list[float]) -> Interval:
    low, high = np.quantile(values, ends)
    return float(low), float(high)


def _resampled_means(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    return np.asarray([values[generator.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)])


def _resampled_macro(images: PerImage, generator: np.random.Generator) -> NDArray[np.float64]:
    """Compute macro precision, recall and F1 of every resample, of shape ``(3, resamples)``."""
    hits = np.zeros((RESAMPLES, images.num_classes), dtype=np.int64)
    predicted = np.zeros((RESAMPLES, images.num_classes + 1), dtype=np.int64)  # last column: no prediction
    support = np.bincount(images.targets, minlength=images.num_classes)
    for target in np.flatnonzero(support).tolist():
        classes, counts = np.unique(images.predicted[images.targets == target], return_counts=True)
        drawn = generator.multinomial(support[target], counts / support[target], size=RESAMPLES)
        predicted[:, classes] += drawn
        column = np.flatnonzero(classes == target)
        if len(column):
            hits[:, target] = drawn[:, column[0]]
    rows = (per_class_of_counts(h, support, p[:-1]).macro for h, p in zip(hits, predicted, strict=True))
    return np.asarray(list(rows)).T


def _area_interval(images: PerImage, level: float) -> dict[str, Interval]:
    influence, areas = np.zeros(len(images)), []
    for _, scores, positive in roc_columns(images):
        positives, negatives = np.sort(scores[positive]), np.sort(scores[~positive])
        above = _share_below(negatives, scores[positive])
        below = 1 - _share_below(positives, scores[~positive])
        areas.append(float(above.mean()))
        influence[positive] += (above - areas[-1]) / len(positives)
        influence[~positive] += (below - areas[-1]) / len(negatives)
    mean = float(np.mean(areas)) if areas else 0.0
    if not 0 < mean < 1:
        return {}
    error = float(np.sqrt((influence**2).sum())) / len(areas)
    centre, half = np.log(mean / (1 - mean)), NormalDist().inv_cdf((1 + level) / 2) * error / (mean * (1 - mean))
    low, high = (1 / (1 + np.exp(-(centre + sign * half))) for sign in (-1, 1))
    return {"auroc": (float(low), float(high))}


def _share_below(sorted_scores: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of ``sorted_scores`` below each score. Equal scores count one half."""
    counts = sum(np.searchsorted(sorted_scores, scores, side) for side in ("left", "right"))
    return np.asarray(counts) / 2 / len(sorted_scores)
