"""The metrics of a classification: one implementation for training, reports, tables and external evaluations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.calibration import bin_by_confidence
from imgrec.metrics.confusion import PerClass, per_class_of_counts
from imgrec.metrics.per_image import PerImage, per_image
from imgrec.metrics.roc import roc_area

_COLUMNS = 64
"""Classes whose probabilities are in memory at a time, in float64."""


def classification_scores(logits: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """Compute the metrics of a classification.

    Ties: of equal logits, the class with the lower index ranks first, in ``acc``, ``acc_top5`` and the macro averages.
    Equal probabilities of two images count one half in ``auroc``.

    A macro average is scikit-learn's, over the classes that occur or were predicted; a class that occurs and was never
    predicted, or the other way round, counts as 0. A class without an image, or with every image, has no ROC curve and
    is left out of ``auroc``. An image whose logits are NaN or infinite has no predicted class: it counts as wrong, and
    ``auroc``, ``ece`` and ``nll`` are NaN.

    Shapes: ``logits`` ``(N, C)``; ``targets`` class indices ``(N,)``.

    Returns:
        ``acc``, ``acc_top5`` (only for more than five classes), ``precision_macro``, ``recall_macro``, ``f1_macro``,
        ``auroc`` (one class against the rest; only if a class has a ROC curve), ``ece`` (15 equal bins, absolute
        differences) and ``nll`` (nats per image). Each is in [0, 1], except ``nll``. Empty if there is no image.

    Raises:
        ValueError: If the shapes do not match, or a target is not a class.

    >>> classification_scores([[2.0, 0.0], [0.0, 2.0]], [0, 1])["acc"]
    1.0
    """
    return scores_of(per_image(logits, targets))


def scores_of(images: PerImage) -> dict[str, float]:
    """Compute what :func:`classification_scores` returns from per-image statistics."""
    if not len(images):
        return {}
    scores = {"acc": float(images.correct.mean())}
    if images.classes > 5:
        scores["acc_top5"] = float((images.rank < 5).mean())
    scores |= zip(("precision_macro", "recall_macro", "f1_macro"), per_class(images).macro, strict=True)
    areas = list(roc_areas(images).values())
    if areas:
        scores["auroc"] = float(np.mean(areas))
    whole = bool(images.has_softmax.all())
    bins = bin_by_confidence(images.confidence, images.correct) if whole else None
    scores["ece"] = bins.expected_calibration_error if bins else float("nan")
    scores["nll"] = float(images.nll.mean()) if whole else float("nan")
    return scores


def per_class(images: PerImage) -> PerClass:
    """Compute support, precision, recall and F1 of each class; an image without a prediction counts as missed."""
    said = images.predicted[images.has_softmax]
    hits, support, predicted = (
        np.bincount(labels, minlength=images.classes)
        for labels in (images.targets[images.correct], images.targets, said)
    )
    return per_class_of_counts(hits, support, predicted)


def roc_areas(images: PerImage) -> dict[int, float]:
    """Compute the area under the ROC curve of each class that has one, by class index; NaN if a softmax is missing."""
    whole = bool(images.has_softmax.all())
    found = {}
    for index, scores, positive in roc_columns(images):
        found[index] = roc_area(scores, positive) if whole else float("nan")
    return found


def roc_columns(images: PerImage) -> Iterator[tuple[int, NDArray[np.float64], NDArray[np.bool_]]]:
    """Yield each class that has a ROC curve, its probabilities, and True for the images of it, both ``(N,)``."""
    counts = np.bincount(images.targets, minlength=images.classes)
    both = (counts > 0) & (counts < len(images))
    for start in range(0, images.classes, _COLUMNS):
        if not both[start : start + _COLUMNS].any():
            continue
        columns = images.probabilities(slice(start, start + _COLUMNS))
        for offset in np.flatnonzero(both[start : start + _COLUMNS]).tolist():
            index = start + offset
            yield index, np.ascontiguousarray(columns[:, offset]), np.asarray(images.targets == index)


def top_k_accuracy(logits: ArrayLike, targets: ArrayLike, k: int) -> float:
    """Compute the fraction of images whose class is among the ``k`` first; of equal logits the lower class index leads.

    >>> top_k_accuracy([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [1, 2], k=2)
    0.5
    """
    return float((per_image(logits, targets).rank < k).mean())
