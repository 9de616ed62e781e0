"""Confusion matrix, and precision, recall and F1 of each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def confusion_matrix(targets: ArrayLike, predicted: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Count the images of each pair of true and predicted class.

    Args:
        targets: True class indices of shape ``(N,)``.
        predicted: Predicted class indices of shape ``(N,)``.
        num_classes: Number of classes.

    Returns:
        Counts, int64 ``(num_classes, num_classes)``, with one row per true class.

    Raises:
        ValueError: If the shapes differ, or an index is not a class.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    true, guessed = np.asarray(targets, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if true.ndim != 1 or true.shape != guessed.shape:
        raise ValueError(f"expected two arrays of one shape (N,), got {true.shape} and {guessed.shape}")
    indices = np.concatenate([true, guessed])
    if indices.size and (indices.min() < 0 or indices.max() >= num_classes):
        raise ValueError(f"class indices between {indices.min()} and {indices.max()} for {num_classes} classes")
    counts = np.bincount(true * num_classes + guessed, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True, eq=False)
class PerClass:
    """Support, precision, recall and F1 of each class, each of shape ``(C,)``.

    A value that is not defined is NaN. This applies to the recall of a class without images and to the precision of a
    class that was never predicted. F1 is NaN only if neither is defined.

    Attributes:
        support: Number of images of the class, int64.
        precision: Precision in [0, 1].
        recall: Recall in [0, 1].
        f1: F1 score in [0, 1].
    """

    support: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    @property
    def macro(self) -> tuple[float, float, float]:
        """Mean precision, recall and F1 over the classes that occur or were predicted. A NaN counts as 0."""
        defined = ~np.isnan(self.f1)
        if not defined.any():
            return (float("nan"),) * 3
        return (
            float(np.nan_to_num(self.precision[defined]).mean()),
            float(np.nan_to_num(self.recall[defined]).mean()),
            float(self.f1[defined].mean()),
        )


def per_class_table(matrix: ArrayLike) -> PerClass:
    """Compute support, precision, recall and F1 of each class from a :func:`confusion_matrix` ``(C, C)``.

    Raises:
        ValueError: If the matrix is not square.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"expected a square matrix, got shape {counts.shape}")
    return per_class_of_counts(counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0))


def per_class_of_counts(hits: NDArray[np.int64], support: NDArray[np.int64], predicted: NDArray[np.int64]) -> PerClass:
    """Compute precision, recall and F1 from counts of each class, all int64 ``(C,)``.

    Args:
        hits: Number of images of the class that were predicted correctly.
        support: Number of images of the class.
        predicted: Number of images for which the class was predicted.
    """
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that PerClass documents
        return PerClass(support, hits / predicted, hits / support, 2 * hits / (support + predicted))


def most_confused(matrix: ArrayLike, at_most: int = 15) -> list[tuple[int, int, int]]:
    """Return (true class, predicted class, count) of the most frequent errors, in descending order.

    Args:
        matrix: A :func:`confusion_matrix`.
        at_most: Maximum number of pairs. Defaults to 15.
    """
    counts = np.array(matrix, dtype=np.int64)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:at_most]
    pairs = [(int(i) // counts.shape[1], int(i) % counts.shape[1]) for i in order]
    return [(true, guessed, int(counts[true, guessed])) for true, guessed in pairs if counts[true, guessed]]
