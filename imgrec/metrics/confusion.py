"""What was taken for what, and what that means for each class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


def confusion_matrix(targets: ArrayLike, predicted: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """How often class ``i`` was taken for class ``j``: int64 ``(num_classes, num_classes)``, a row a true class.

    Shapes: ``targets`` and ``predicted`` class indices ``(N,)``.

    Raises:
        ValueError: the shapes differ, or an index is no class.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    true, said = np.asarray(targets, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    if true.ndim != 1 or true.shape != said.shape:
        raise ValueError(f"expected two arrays of one shape (N,), got {true.shape} and {said.shape}")
    both = np.concatenate([true, said])
    if both.size and (both.min() < 0 or both.max() >= num_classes):
        raise ValueError(f"class indices between {both.min()} and {both.max()} for {num_classes} classes")
    counts = np.bincount(true * num_classes + said, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


@dataclass(frozen=True, eq=False)
class PerClass:
    """Figures of each class, each of shape ``(C,)``: ``support`` int64, how many images are of it; the rest in [0, 1].

    NaN where a figure has no meaning: the recall of a class without images, the precision of one that was never
    predicted. ``f1`` is NaN only for a class that is neither there nor predicted.
    """

    support: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    @property
    def macro(self) -> tuple[float, float, float]:
        """Precision, recall and F1 averaged over the classes that are there or were predicted; a NaN counts as 0."""
        known = ~np.isnan(self.f1)
        if not known.any():
            return (float("nan"),) * 3
        return (
            float(np.nan_to_num(self.precision[known]).mean()),
            float(np.nan_to_num(self.recall[known]).mean()),
            float(self.f1[known].mean()),
        )


def per_class_table(matrix: ArrayLike) -> PerClass:
    """Support, precision, recall and F1 of each class of a :func:`confusion_matrix` ``(C, C)``."""
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"expected a square matrix, got shape {counts.shape}")
    return per_class_of_counts(counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0))


def per_class_of_counts(hits: NDArray[np.int64], support: NDArray[np.int64], said: NDArray[np.int64]) -> PerClass:
    """Compute precision, recall and F1 from counts of each class, all int64 ``(C,)``.

    Args:
        hits: images that are of the class and were named so.
        support: images that are of the class.
        said: images that were named so.
    """
    with np.errstate(invalid="ignore"):  # 0 / 0 is the NaN that PerClass documents
        return PerClass(support, hits / said, hits / support, 2 * hits / (support + said))


def most_confused(matrix: ArrayLike, at_most: int = 15) -> list[tuple[int, int, int]]:
    """The pairs (true class, predicted class, how often) of a :func:`confusion_matrix`, most frequent first."""
    counts = np.array(matrix, dtype=np.int64)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:at_most]
    pairs = [(int(i) // counts.shape[1], int(i) % counts.shape[1]) for i in order]
    return [(true, said, int(counts[true, said])) for true, said in pairs if counts[true, said]]
