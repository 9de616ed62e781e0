"""Assignment of images to training, validation and test: given by the source, or random and stratified."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import Source
from imgrec.data.splits.stratify import stratify
from imgrec.errors import UserError
from imgrec.utils.seeding import position_seed

logger = logging.getLogger(__name__)

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Rows of each split of a source, in the order of their ids. ``test`` can be empty."""

    train: Rows
    val: Rows
    test: Rows

    def sizes(self) -> dict[str, int]:
        """Return the number of images of each split."""
        return {"train": len(self.train), "val": len(self.val), "test": len(self.test)}


def split_source(source: Source, val_fraction: float = 0.1, test_fraction: float = 0.1, seed: int = 0) -> Splits:
    """Return the splits of a source. Given splits are kept, and missing ones are drawn class by class.

    Missing validation images are drawn from the training images, never from the test images. Test images are drawn only
    if the source has no split at all. Rows without a split are training images. A class without given validation or
    test images is logged as a warning.

    The draw is a function of the ids and the seed. In each class, the ids are ranked by a hash of seed and id. The
    first ones are test images, the next ones validation images, at least one each. Images with several labels are
    assigned by :func:`imgrec.data.splits.stratify.stratify`.

    Args:
        source: Table of images.
        val_fraction: Fraction of each class for validation, if none is given. Defaults to 0.1.
        test_fraction: Fraction of each class for the test, if no split is given. 0 for no test. Defaults to 0.1.
        seed: Seed of the draw. Defaults to 0.

    Raises:
        UserError: If a class has too few images for every split, or no training image.
    """
    given = set(source.splits) - {None}
    pool = _rows(source, {None, "train"})
    if not len(pool):
        raise UserError(f"no training image: all images are in the splits {', '.join(sorted(map(str, given)))}.")
    val, test = _rows(source, {"val"}), _rows(source, {"test"})
    carve_val, carve_test = "val" not in given, not given and test_fraction > 0
    carved_test, carved_val, train = [test], [val], [pool]
    if carve_val or carve_test:
        fractions = (test_fraction if carve_test else 0.0, val_fraction if carve_val else 0.0)
        carve = _stratified if source.multi_label else _by_class
        carved_test, carved_val, train = carve(source, pool, fractions, seed)
        carved_test.append(test)
        carved_val.append(val)
    splits = Splits(_sorted(source, train), _sorted(source, carved_val), _sorted(source, carved_test))
    check_splits(source, splits)
    return splits


def _by_class(source: Source, pool: Rows, fractions: tuple[float, float], seed: int) -> tuple[list[Rows], ...]:
    """Return the rows of test, validation and training, class by class."""
    found: tuple[list[Rows], list[Rows], list[Rows]] = ([], [], [])
    short = []
    for target, name in enumerate(source.class_names):
        ranked = _ranked(source, pool[source.targets[pool] == target], seed)
        tests, vals = (max(1, round(fraction * len(ranked))) if fraction else 0 for fraction in fractions)
        if len(ranked) <= tests + vals:
            short.append(f'"{name}" ({len(ranked)})')
        for part, rows in zip(found, np.split(ranked, [tests, tests + vals]), strict=True):
            part.append(rows)
    if short:
        needed = "training, validation and test" if fractions[0] else "training and validation"
        raise UserError(
            f"too few images for one in each of {needed}: the class {', '.join(short[:5])}"
            f"{' and more' if len(short) > 5 else ''}. Add images, or leave the class out."
        )
    return found


def _stratified(source: Source, pool: Rows, fractions: tuple[float, float], seed: int) -> tuple[list[Rows], ...]:
    """Return the rows of test, validation and training for images with several labels."""
    ids = [source.ids[row] for row in pool.tolist()]
    return tuple([pool[rows]] for rows in stratify(source.targets[pool], ids, fractions, seed))


def _rows(source: Source, words: set[str | None]) -> Rows:
    return np.asarray([row for row, split in enumerate(source.splits) if split in words], dtype=np.int64)


def _ranked(source: Source, rows: Rows, seed: int) -> Rows:
    keys = [(position_seed(seed, "split", source.ids[row]), source.ids[row]) for row in rows]
    return rows[sorted(range(len(rows)), key=keys.__getitem__)]


def _sorted(source: Source, parts: Iterable[Rows]) -> Rows:
    rows = np.concatenate(list(parts))
    return np.asarray(sorted(rows.tolist(), key=source.ids.__getitem__), dtype=np.int64)


def check_splits(source: Source, splits: Splits) -> None:
    """Check that every class has training images and that there are validation images.

    A class without a validation or a test image is logged as a warning. Macro averages of this split include it only
    if it is predicted.

    Raises:
        UserError: If a class has no training image, or if there is no validation image at all.
    """
    together = np.concatenate([splits.train, splits.val, splits.test])
    if len(np.unique(together)) != len(together):
        raise RuntimeError("an image is in two splits")
    if not len(splits.val):
        raise UserError("no validation image.")
    for split, rows in (("training", splits.train), ("validation", splits.val), ("test", splits.test)):
        if split == "test" and not len(rows):  # a test split is optional
            continue
        counts = source.class_counts(rows)
        missing = [f'"{source.class_names[i]}"' for i in np.flatnonzero(counts == 0)]
        if not missing:
            continue
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        message = f"no {split} image of the class {', '.join(missing[:5])}{more}."
        if split == "training":
            raise UserError(message)
        logger.warning("%s The %s metrics do not cover it.", message, split)
