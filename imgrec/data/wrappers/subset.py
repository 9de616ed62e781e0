"""Random subset of the training images of another source, stratified by class."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import SOURCES, SPLITS, Source, SourceView
from imgrec.data.splits.assign import Rows
from imgrec.data.splits.stratify import stratify
from imgrec.data.wrappers.training_split import assign_splits, ranks_in_class, rows_of, stored_splits
from imgrec.errors import UserError, suggestion
from imgrec.utils.ranges import LeftOpenUnitInterval, PositiveInt, check_ranges
from imgrec.utils.seeding import position_seed


@SOURCES.register("subset")
class Subset(SourceView):
    """Random subset of the training images of another source, stratified by class.

    One of ``images``, ``per_class`` and ``fraction`` determines the size. ``images`` and ``fraction`` keep the
    proportions of the classes and at least one image of each class. Images with several labels are stratified by label.

    Validation and test images do not depend on the size, so that runs of different sizes can be compared. The subset is
    a function of the seed and the ids. With the same seed, a smaller subset is contained in every larger one.

    Args:
        source: Source, as in ``data.source``.
        images: Number of images.
        per_class: Number of images of each class.
        fraction: Fraction of the images, in (0, 1].
        splits: Splits to reduce, each to this size. Defaults to ``[train]``.
        seed: Seed of the draw. Defaults to 0.
        val_fraction: Validation fraction of the data module.
        test_fraction: Test fraction of the data module.
        split_seed: Seed of the split of the data module.

    Raises:
        UserError: If none or several of the three sizes are given, or if the source has too few images.

    Example::

        source: {name: subset, source: digits, per_class: 20}

    >>> from imgrec.data import Digits
    >>> small = Subset(Digits(), images=100)
    >>> small.class_counts([row for row, split in enumerate(small.splits) if split == "train"]).tolist()
    [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """

    narrow = True

    @check_ranges
    def __init__(
        self,
        source: Annotated[Any, SOURCES],
        images: PositiveInt | None = None,
        per_class: PositiveInt | None = None,
        fraction: LeftOpenUnitInterval | None = None,
        splits: list[str] | None = None,
        seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        self.check_arguments(source, images, per_class, fraction, splits)
        assigned = assign_splits(source, val_fraction, test_fraction, split_seed)
        if stored_splits(source) is not None:  # the images that were drawn for the run
            rows = rows_of(assigned, *SPLITS)
            super().__init__(source, rows, splits=[assigned[row] for row in rows.tolist()])
            return
        smaller = splits or ["train"]
        kept = [rows_of(assigned, *(word for word in SPLITS if word not in smaller))]
        for word in smaller:
            rows = rows_of(assigned, word)
            if not len(rows):
                raise UserError(f'splits: there is no image in the split "{word}".')
            kept.append(rows[_select(source, rows, images, per_class, fraction, seed, word)])
        rows = np.sort(np.concatenate(kept))
        super().__init__(source, rows, splits=[assigned[row] for row in rows.tolist()])

    @staticmethod
    def check_arguments(
        source: Any,
        images: int | None = None,
        per_class: int | None = None,
        fraction: float | None = None,
        splits: list[str] | None = None,
        **_: Any,
    ) -> None:
        """Raise :class:`UserError` for arguments that contradict each other, before any data is read."""
        sizes = {"images": images, "per_class": per_class, "fraction": fraction}
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise UserError(f"expected one of images, per_class and fraction, got {found}.")
        if splits is not None and not splits:
            raise UserError(f"splits: expected one or more of {', '.join(SPLITS)}, got none.")
        for word in splits or []:
            if word not in SPLITS:
                raise UserError(
                    f'splits: no split is called "{word}".{suggestion(word, SPLITS)} Accepted: {", ".join(SPLITS)}.'
                )


def proportional_order(ranks: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order of images in which every prefix has the classes in proportion, at least one of each first.

    Shapes: all ``(images,)``.

    Args:
        ranks: Rank of each image within its class, from 0.
        counts: Number of images of its class.

    Source: Webster's divisor method, which is monotone in the number of seats. Balinski and Young 1982, "Fair
    Representation: Meeting the Ideal of One Man, One Vote", Yale University Press.

    >>> proportional_order(np.array([0, 1, 2, 3, 0, 1]), np.array([4, 4, 4, 4, 2, 2])).tolist()
    [0, 4, 1, 2, 5, 3]
    """
    return np.lexsort((ranks, np.where(ranks == 0, 0.0, (2 * ranks + 1) / counts)))


def _select(
    source: Source, rows: Rows, images: int | None, per_class: int | None, fraction: float | None, seed: int, word: str
) -> NDArray[np.int64]:
    """Return the positions in ``rows`` of the subset of one split."""
    count = images if images is not None else max(1, round((fraction or 0) * len(rows)))
    if images is not None and images > len(rows):
        raise UserError(f"images: expected at most {len(rows):,}, the images of the split {word}, got {images:,}.")
    if source.multi_label:
        if per_class is not None:
            raise UserError("per_class: expected images or fraction for a source with several labels per image.")
        share = count / len(rows)
        if share == 1:
            return np.arange(len(rows))
        ids = [source.ids[row] for row in rows.tolist()]
        return stratify(source.targets[rows], ids, [share], position_seed(seed, "subset"))[0]
    counts = source.class_counts(rows)
    ranks = ranks_in_class(source, rows, seed, "subset")
    if per_class is not None:
        short = [f"{source.class_names[i]} has {counts[i]}" for i in np.flatnonzero(counts < per_class).tolist()]
        if short:
            more = f" and {len(short) - 5} more classes have fewer" if len(short) > 5 else ""
            found = f"{', '.join(short[:5])}{more}"
            raise UserError(
                f"per_class: expected at most the images of each class in {word}, got {per_class}: {found}."
            )
        return np.flatnonzero(ranks < per_class)
    classes = int((counts > 0).sum())
    if images is not None and images < classes:
        raise UserError(f"images: expected one or more for each of {classes} classes, got {images}.")
    return proportional_order(ranks, counts[source.targets[rows]])[: max(count, classes)]
