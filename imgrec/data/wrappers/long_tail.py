"""Long-tailed version of another source: the number of training images decreases from class to class."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from imgrec.data.sources.base import SOURCES, SourceView
from imgrec.data.wrappers.training_split import assign_splits, check_class_names, ranks_in_class, rows_of, stored_splits
from imgrec.errors import UserError
from imgrec.utils.ranges import Finite, check_ranges

Profile = Literal["exponential", "step"]


@SOURCES.register("long_tail")
class LongTail(SourceView):
    """Long-tailed version of another source: the number of training images decreases from class to class.

    The first class has the size of the largest class, and the last class has this size divided by ``imbalance``. With
    the profile ``exponential``, the size decreases by a constant factor. With ``step``, the first half of the classes
    is large and the second half is small. A smaller class is unchanged.

    Validation and test images are unchanged, so that they remain balanced if the source is balanced. The result is a
    function of the seed and the ids. With the same seed, a longer tail is contained in a shorter one. CIFAR-10 with
    ``imbalance: 100`` is the CIFAR-10-LT of the literature without the tenth that is used for validation.

    Args:
        source: Source, as in ``data.source``, with one label per image.
        imbalance: Ratio of the sizes of the first and the last class, at least 1. Defaults to 100.
        profile: ``exponential`` or ``step``. Defaults to ``exponential``.
        order: Classes from the most frequent to the rarest. Defaults to the order of the source.
        seed: Seed of the draw. Defaults to 0.
        val_fraction: Validation fraction of the data module.
        test_fraction: Test fraction of the data module.
        split_seed: Seed of the split of the data module.

    Raises:
        UserError: If ``order`` does not contain each class once, or if images have several labels.

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

    @check_ranges
    def __init__(
        self,
        source: Annotated[Any, SOURCES],
        imbalance: Annotated[float, Ge(1), Finite] = 100.0,
        profile: Profile = "exponential",
        order: list[str] | None = None,
        seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        self.check_arguments(source, imbalance, profile, order)
        if source.multi_label:
            raise UserError("long_tail: expected one label per image, got several.")
        names = list(source.class_names)
        if order is not None:
            check_class_names(order, names, "order")
            if missing := [name for name in names if name not in order]:
                raise UserError(f"order: expected every class once, got none of {', '.join(missing[:5])}.")
        assigned = assign_splits(source, val_fraction, test_fraction, split_seed)
        if stored_splits(source) is not None:  # the images of the run
            found = rows_of(assigned, "train", "val", "test")
            super().__init__(source, found, splits=[assigned[row] for row in found.tolist()])
            return
        rows = rows_of(assigned, "train")
        left = np.empty(len(names), dtype=np.int64)
        left[[names.index(name) for name in order or names]] = tail_counts(
            int(source.class_counts(rows).max()), len(names), imbalance, profile
        )
        kept = rows[ranks_in_class(source, rows, seed, "long_tail") < left[source.targets[rows]]]
        found = np.sort(np.concatenate([kept, rows_of(assigned, "val", "test")]))
        super().__init__(source, found, splits=[assigned[row] for row in found.tolist()])

    @staticmethod
    def check_arguments(
        source: Any,
        imbalance: float = 100.0,
        profile: str = "exponential",
        order: list[str] | None = None,
        **_: Any,
    ) -> None:
        """Raise :class:`UserError` for arguments that contradict each other, before any data is read."""
        if profile not in get_args(Profile):
            raise UserError(f'profile: expected {" or ".join(get_args(Profile))}, got "{profile}".')
        if order is not None and len(set(order)) < len(order):
            twice = next(name for name in order if order.count(name) > 1)
            raise UserError(f'order: expected each class once, got "{twice}" twice.')


def tail_counts(most: int, classes: int, imbalance: float, profile: Profile = "exponential") -> NDArray[np.int64]:
    """Return the number of images of each class, at least one, from the most frequent to the rarest.

    Args:
        most: Number of images of the first class.
        classes: Number of classes, at least two.
        imbalance: Ratio of the first to the last number.
        profile: Shape of the decrease. Defaults to ``exponential``.

    >>> tail_counts(5000, 10, 100).tolist()
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    places = np.arange(classes) / (classes - 1) if profile == "exponential" else np.arange(classes) >= classes // 2
    counts = most * float(imbalance) ** -places.astype(np.float64)
    return np.maximum(1, np.floor(counts + 1e-9)).astype(np.int64)
