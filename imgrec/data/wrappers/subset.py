"""A part of another source: fewer images to learn from, drawn class by class."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import SOURCES, SPLITS, Source, SourceView
from imgrec.data.splits.assign import Rows
from imgrec.data.splits.stratify import stratify
from imgrec.data.wrappers.training_split import assign_splits, ranks_in_class, rows_of, stored_splits
from imgrec.errors import UserError, suggestion
from imgrec.utils.seeding import position_seed


@SOURCES.register("subset")
class Subset(SourceView):
    """Fewer training images of another source, drawn class by class.

    One of ``images``, ``per_class`` and ``fraction`` says how many. ``images`` and ``fraction`` keep the proportions
    of the classes as well as whole images can, and one image of each class at least. Validation and test stay as they
    are, and are carved before anything is left out: they are the same images whatever the size, so that runs with
    more and more images can be compared. Which images are kept is a function of the seed and the ids; with the same
    seed, a smaller subset lies within every larger one.

    Images with several labels each are shared out label by label, by ``images`` or ``fraction``.

    Args:
        source: the source, as in ``data.source``.
        images: how many images.
        per_class: how many of each class.
        fraction: which part of them, above 0 and up to 1.
        splits: the splits that are made smaller, each by as much as is said.
        seed: another one draws other images.
        val_fraction: as in the data module, which says it.
        test_fraction: likewise.
        split_seed: likewise.

    Raises:
        UserError: none or several of the three sizes, or one that the source cannot give.

    Example::

        source: {name: subset, source: digits, per_class: 20}

    >>> from imgrec.data import Digits
    >>> small = Subset(Digits(), images=100)
    >>> small.class_counts([row for row, split in enumerate(small.splits) if split == "train"]).tolist()
    [10, 10, 10, 10, 10, 10, 10, 10, 10, 10]
    """

    narrow = True

    def __init__(
        self,
        source: Annotated[Any, SOURCES],
        images: int | None = None,
        per_class: int | None = None,
        fraction: float | None = None,
        splits: list[str] | None = None,
        seed: int = 0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
    ) -> None:
        self.check_arguments(source, images, per_class, fraction, splits)
        decided = assign_splits(source, val_fraction, test_fraction, split_seed)
        if stored_splits(source) is not None:  # the images that were drawn for the run
            rows = rows_of(decided, *SPLITS)
            super().__init__(source, rows, splits=[decided[row] for row in rows.tolist()])
            return
        smaller = splits or ["train"]
        kept = [rows_of(decided, *(word for word in SPLITS if word not in smaller))]
        for word in smaller:
            rows = rows_of(decided, word)
            if not len(rows):
                raise UserError(f'splits: there is no image in the split "{word}".')
            kept.append(rows[_chosen(source, rows, images, per_class, fraction, seed, word)])
        rows = np.sort(np.concatenate(kept))
        super().__init__(source, rows, splits=[decided[row] for row in rows.tolist()])

    @staticmethod
    def check_arguments(
        source: Any,
        images: int | None = None,
        per_class: int | None = None,
        fraction: float | None = None,
        splits: list[str] | None = None,
        **_: Any,
    ) -> None:
        """Raise :class:`UserError` for what can be told to be wrong before anything is read."""
        sizes = {"images": images, "per_class": per_class, "fraction": fraction}
        given = [name for name, value in sizes.items() if value is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise UserError(f"one of images, per_class and fraction says how many images are kept; got {found}.")
        for name, count in (("images", images), ("per_class", per_class)):
            if count is not None and count < 1:
                raise UserError(f"{name}: must be 1 or more, got {count}.")
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"fraction: a part of the images, above 0 and up to 1, got {fraction}.")
        if splits is not None and not splits:
            raise UserError(f"splits: one of {', '.join(SPLITS)} or more, got none.")
        for word in splits or []:
            if word not in SPLITS:
                raise UserError(
                    f'splits: no split is called "{word}".{suggestion(word, SPLITS)} Accepted: {", ".join(SPLITS)}.'
                )


def proportional_order(ranks: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """An order of images of which every beginning has the classes in proportion: one of each first, then by share.

    Shapes: all ``(images,)``.

    Args:
        ranks: the rank of each image within its class, from 0.
        counts: how many images its class has.

    Source: Webster's divisor method, whose seats never fall where the house grows; Balinski and Young 1982, "Fair
    Representation: Meeting the Ideal of One Man, One Vote", Yale University Press.

    >>> proportional_order(np.array([0, 1, 2, 3, 0, 1]), np.array([4, 4, 4, 4, 2, 2])).tolist()
    [0, 4, 1, 2, 5, 3]
    """
    return np.lexsort((ranks, np.where(ranks == 0, 0.0, (2 * ranks + 1) / counts)))


def _chosen(
    source: Source, rows: Rows, images: int | None, per_class: int | None, fraction: float | None, seed: int, word: str
) -> NDArray[np.int64]:
    """The places in ``rows`` of what is kept of one split."""
    count = images if images is not None else max(1, round((fraction or 0) * len(rows)))
    if images is not None and images > len(rows):
        raise UserError(f"images: {images:,} were asked for, and the split {word} has {len(rows):,}.")
    if source.multi_label:
        if per_class is not None:
            raise UserError("per_class: an image has several labels here; say images or fraction.")
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
            raise UserError(f"per_class: {per_class} were asked for of the split {word}; {', '.join(short[:5])}{more}.")
        return np.flatnonzero(ranks < per_class)
    classes = int((counts > 0).sum())
    if images is not None and images < classes:
        raise UserError(f"images: {images} are fewer than the {classes} classes; each keeps one at least.")
    return proportional_order(ranks, counts[source.targets[rows]])[: max(count, classes)]
