"""A long tail: from each class fewer training images than from the one before."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import SOURCES, SourceView
from imgrec.data.wrappers.training_split import assign_splits, check_class_names, ranks_in_class, rows_of, stored_splits
from imgrec.errors import UserError

Profile = Literal["exponential", "step"]


@SOURCES.register("long_tail")
class LongTail(SourceView):
    """Another source with a long tail: from each class fewer training images than from the one before.

    The first class keeps as many images as the largest class has, the last one an ``imbalance``-th of that; with the
    profile ``exponential`` the counts fall by the same factor from class to class, with ``step`` the second half of
    the classes has the few and the first half the many. A class that has fewer images than that keeps all it has.

    Validation and test stay as they are, and are carved before anything is left out: measured on them, a rare class
    counts as much as a frequent one where the source is balanced. Which images are kept is a function of the seed and
    the ids; with the same seed, a longer tail lies within a shorter one. CIFAR-10 with ``imbalance: 100`` is what the
    literature calls CIFAR-10-LT, less the tenth that is for validation.

    Args:
        source: the source, as in ``data.source``; one label an image.
        imbalance: how many times as many images the first class has as the last, 1 or more.
        profile: how the counts fall.
        order: the classes from the most frequent to the rarest; by default as the source has them.
        seed: another one draws other images.
        val_fraction: as in the data module, which says it.
        test_fraction: likewise.
        split_seed: likewise.

    Raises:
        UserError: an imbalance below 1, an order that does not name each class once, or several labels an image.

    Source: Cui, Jia, Lin, Song and Belongie 2019, "Class-balanced loss based on effective number of samples", CVPR,
    arXiv 1901.05555, section 5.1 (exponential); Buda, Maki and Mazurowski 2018, "A systematic study of the class
    imbalance problem in convolutional neural networks", Neural Networks 106, arXiv 1710.05381 (step).

    Example::

        source: {name: long_tail, source: digits, imbalance: 20}

    >>> from imgrec.data import Digits
    >>> tail = LongTail(Digits(), imbalance=20)
    >>> tail.class_counts([row for row, split in enumerate(tail.splits) if split == "train"]).tolist()
    [142, 105, 75, 54, 38, 27, 19, 14, 10, 7]
    """

    narrow = True

    def __init__(
        self,
        source: Annotated[Any, SOURCES],
        imbalance: float = 100.0,
        profile: Profile = "exponential",
        order: list[str] | None = None,
        seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        self.check_arguments(source, imbalance, profile, order)
        if source.multi_label:
            raise UserError("long_tail: a tail is of classes with one label an image; these images have several.")
        names = list(source.class_names)
        if order is not None:
            check_class_names(order, names, "order")
            if missing := [name for name in names if name not in order]:
                raise UserError(f"order: every class stands in it once; missing: {', '.join(missing[:5])}.")
        decided = assign_splits(source, val_fraction, test_fraction, split_seed)
        if stored_splits(source) is not None:  # the images that were kept for the run
            found = rows_of(decided, "train", "val", "test")
            super().__init__(source, found, splits=[decided[row] for row in found.tolist()])
            return
        rows = rows_of(decided, "train")
        left = np.empty(len(names), dtype=np.int64)
        left[[names.index(name) for name in order or names]] = tail_counts(
            int(source.class_counts(rows).max()), len(names), imbalance, profile
        )
        kept = rows[ranks_in_class(source, rows, seed, "long_tail") < left[source.targets[rows]]]
        found = np.sort(np.concatenate([kept, rows_of(decided, "val", "test")]))
        super().__init__(source, found, splits=[decided[row] for row in found.tolist()])

    @staticmethod
    def check_arguments(
        source: Any,
        imbalance: float = 100.0,
        profile: str = "exponential",
        order: list[str] | None = None,
        **_: Any,
    ) -> None:
        """Raise :class:`UserError` for what can be told to be wrong before anything is read."""
        if not 1 <= imbalance < math.inf:
            raise UserError(f"imbalance: a finite number of 1 or more, got {imbalance}.")
        if profile not in get_args(Profile):
            raise UserError(f'profile: accepted are {" and ".join(get_args(Profile))}, got "{profile}".')
        if order is not None and len(set(order)) < len(order):
            twice = next(name for name in order if order.count(name) > 1)
            raise UserError(f'order: the class "{twice}" stands there twice.')


def tail_counts(most: int, classes: int, imbalance: float, profile: Profile = "exponential") -> NDArray[np.int64]:
    """How many images each class has, from the most frequent to the rarest; one at least.

    Args:
        most: how many the first one has.
        classes: how many classes there are, two or more.
        imbalance: how many times as many the first one has as the last.
        profile: how the counts fall from the first to the last.

    >>> tail_counts(5000, 10, 100).tolist()
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    places = np.arange(classes) / (classes - 1) if profile == "exponential" else np.arange(classes) >= classes // 2
    counts = most * float(imbalance) ** -places.astype(np.float64)
    return np.maximum(1, np.floor(counts + 1e-9)).astype(np.int64)
