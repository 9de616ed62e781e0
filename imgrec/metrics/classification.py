"""Metrics of classification: one function each, registered in METRICS in the order of tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.calibration import CALIBRATION_BINS, bin_by_confidence
from imgrec.metrics.confusion import PerClass, per_class_of_counts
from imgrec.metrics.per_image import NO_CLASS, PerImage, per_image
from imgrec.metrics.registry import METRICS
from imgrec.metrics.roc import roc_area

Labels = NDArray[np.int64]
Floats = NDArray[np.float64]

_COLUMNS = 64
"""Number of classes whose probabilities are in memory at a time, in float64."""


def classification_scores(logits: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """Compute every registered metric from logits.

    Ties: of equal logits, the class with the lower index ranks first. Equal probabilities of two images count one half
    in ``auroc``. An image whose logits are NaN or infinite has no predicted class and counts as wrong. ``auroc``,
    ``ece`` and ``nll`` are NaN then.

    Args:
        logits: Logits of shape ``(N, C)``.
        targets: Class indices of shape ``(N,)``.

    Returns:
        Metrics by name. A metric that is not defined for the predictions is absent. Empty if there is no image.

    Raises:
        ValueError: If the shapes do not match, or a target is not a class.

    Example:
        >>> classification_scores([[2.0, 0.0], [0.0, 2.0]], [0, 1])["acc"]
        1.0
    """
    return scores_of(per_image(logits, targets))


def scores_of(images: PerImage) -> dict[str, float]:
    """Compute every registered metric from per-image statistics, as :func:`classification_scores` does."""
    if not len(images):
        return {}
    values = {metric.name: metric.value(images) for metric in METRICS.in_order()}
    return {name: value for name, value in values.items() if value is not None}


@METRICS.register(
    "acc", title="Accuracy", label="accuracy", format="percent", tables=frozenset(("evaluations", "runs"))
)
def accuracy(predicted: Labels, targets: Labels) -> float:
    """Compute the fraction of images whose predicted class is the target.

    Args:
        predicted: Predicted class of each image, shape ``(N,)``.
        targets: True class of each image, shape ``(N,)``.

    Example:
        >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 2]))
        0.6666666666666666
    """
    return float((predicted == targets).mean())


@METRICS.register(
    "acc_top5",
    title="Top-5 accuracy",
    label="top-5 accuracy",
    hint="among the five most probable",
    format="percent",
    tables=frozenset(("report",)),
)
def top_k_accuracy(rank: Labels, num_classes: int, k: int = 5) -> float | None:
    """Compute the fraction of images whose class is among the ``k`` with the largest logits.

    Of equal logits, the class with the lower index ranks first.

    Args:
        rank: Number of classes that rank before the target, shape ``(N,)``.
        num_classes: Number of classes. With ``k`` classes or fewer the metric is not defined.
        k: Number of classes that count. Defaults to 5.

    Example:
        >>> top_k_accuracy(np.array([0, 4, 7]), num_classes=10)
        0.6666666666666666
    """
    return float((rank < k).mean()) if num_classes > k else None


@METRICS.register("precision_macro", title="Macro precision", label="precision (macro)", tables=frozenset())
def precision_macro(predicted: Labels, targets: Labels, num_classes: int) -> float:
    """Compute the mean of the precision over the classes that occur or were predicted, as scikit-learn does.

    A class that occurs and was never predicted counts as 0. Args as in :func:`f1_macro`.

    Example:
        >>> precision_macro(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        0.75
    """
    return per_class(predicted, targets, num_classes).macro[0]


@METRICS.register("recall_macro", title="Macro recall", label="recall (macro)", tables=frozenset())
def recall_macro(predicted: Labels, targets: Labels, num_classes: int) -> float:
    """Compute the mean of the recall over the classes that occur or were predicted, as scikit-learn does.

    A class that was predicted and does not occur counts as 0. Args as in :func:`f1_macro`.

    Example:
        >>> recall_macro(np.array([0, 0, 1]), np.array([0, 1, 1]), 2)
        0.75
    """
    return per_class(predicted, targets, num_classes).macro[1]


@METRICS.register(
    "f1_macro",
    title="Macro F1",
    label="F1 (macro)",
    hint="mean over classes",
    tables=frozenset(("report", "evaluations")),
)
def f1_macro(predicted: Labels, targets: Labels, num_classes: int) -> float:
    """Compute the mean of the F1 score over the classes that occur or were predicted, as scikit-learn does.

    Args:
        predicted: Predicted class of each image, shape ``(N,)``. ``-1`` for an image without a prediction.
        targets: True class of each image, shape ``(N,)``.
        num_classes: Number of classes.

    Example:
        >>> round(f1_macro(np.array([0, 0, 1]), np.array([0, 1, 1]), 2), 4)
        0.6667
    """
    return per_class(predicted, targets, num_classes).macro[2]


@METRICS.register(
    "auroc", title="AUROC", hint="one class against the rest", tables=frozenset(("report", "evaluations"))
)
def auroc(images: PerImage) -> float | None:
    """Compute the mean over the classes of the area under the ROC curve of one class against the rest.

    Equal probabilities of two images count one half. A class without an image, or with every image, has no ROC curve
    and is left out. The metric is not defined if no class has a curve.

    Source: Hanley and McNeil, 1982, doi:10.1148/radiology.143.1.7063747.

    Example:
        >>> auroc(per_image([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [0, 0, 1]))
        1.0
    """
    areas = list(roc_areas(images).values())
    return float(np.mean(areas)) if areas else None


@METRICS.register(
    "ece",
    title="ECE",
    label="calibration error",
    hint="calibration error, 15 bins",
    higher_is_better=False,
    tables=frozenset(("report", "compare")),
)
def expected_calibration_error(
    confidence: Floats, predicted: Labels, targets: Labels, bins: int = CALIBRATION_BINS
) -> float:
    """Compute the expected calibration error (ECE) of the predicted class, between 0 and 1.

    Args:
        confidence: Probability of the predicted class, shape ``(N,)``.
        predicted: Predicted class of each image, shape ``(N,)``.
        targets: True class of each image, shape ``(N,)``.
        bins: Number of bins of equal width. Defaults to 15.

    Source: Naeini, Cooper and Hauskrecht, 2015, doi:10.1609/aaai.v29i1.9602; Guo et al., 2017, arXiv:1706.04599.

    Example:
        >>> expected_calibration_error(np.array([0.9, 0.9]), np.array([0, 0]), np.array([0, 1]))
        0.4
    """
    return bin_by_confidence(confidence, predicted == targets, bins).expected_calibration_error


@METRICS.register(
    "nll",
    title="NLL",
    label="negative log-likelihood",
    hint="mean, in nats",
    higher_is_better=False,
    tables=frozenset(("report", "evaluations", "compare")),
)
def negative_log_likelihood(nll: Floats) -> float:
    """Compute the mean negative log-likelihood of the target, in nats per image.

    Args:
        nll: Negative log-likelihood of the target of each image, shape ``(N,)``.

    Source: Good, 1952, "Rational Decisions", doi:10.1111/j.2517-6161.1952.tb00104.x.

    Example:
        >>> negative_log_likelihood(np.array([0.5, 1.5]))
        1.0
    """
    return float(nll.mean())


def per_class(predicted: Labels, targets: Labels, num_classes: int) -> PerClass:
    """Compute support, precision, recall and F1 of each class. An image without a prediction counts as missed.

    Args:
        predicted: Predicted class of each image, shape ``(N,)``. ``-1`` for an image without a prediction.
        targets: True class of each image, shape ``(N,)``.
        num_classes: Number of classes.
    """
    hits, support, counts = (
        np.bincount(labels, minlength=num_classes)
        for labels in (targets[predicted == targets], targets, predicted[predicted != NO_CLASS])
    )
    return per_class_of_counts(hits, support, counts)


def roc_areas(images: PerImage) -> dict[int, float]:
    """Compute the area under the ROC curve of each class that has one, by class index. NaN if a softmax is missing."""
    complete = bool(images.has_softmax.all())
    found = {}
    for index, scores, positive in roc_columns(images):
        found[index] = roc_area(scores, positive) if complete else float("nan")
    return found


def roc_columns(images: PerImage) -> Iterator[tuple[int, Floats, NDArray[np.bool_]]]:
    """Yield each class that has a ROC curve, its probabilities, and True for its images, both of shape ``(N,)``."""
    counts = np.bincount(images.targets, minlength=images.num_classes)
    has_curve = (counts > 0) & (counts < len(images))
    for start in range(0, images.num_classes, _COLUMNS):
        if not has_curve[start : start + _COLUMNS].any():
            continue
        columns = images.probabilities(slice(start, start + _COLUMNS))
        for offset in np.flatnonzero(has_curve[start : start + _COLUMNS]).tolist():
            index = start + offset
            yield index, np.ascontiguousarray(columns[:, offset]), np.asarray(images.targets == index)
