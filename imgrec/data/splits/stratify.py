"""Stratified splits of images with several labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imgrec.utils.seeding import position_seed


def stratify(
    targets: NDArray[np.float32], ids: Sequence[str], fractions: Sequence[float], seed: int
) -> list[NDArray[np.int64]]:
    """Split rows so that each label has the same distribution over the parts as the rows.

    The rarest remaining label is processed first. Each of its rows is assigned to the part that lacks most of this
    label, and among these to the part that lacks most rows. Rows without a label are last. If a label has at least as
    many rows as there are parts, every part receives one.

    Shapes: targets ``(rows, classes)`` of 0 and 1.

    Args:
        targets: Labels of each row.
        ids: Ids of the rows, which determine the order of the assignment together with the seed.
        fractions: Size of each part except the last, which receives the remaining rows.
        seed: Seed of the order.

    Returns:
        The rows of each part, one part more than there are fractions, each in ascending order.

    Source: Sechidis, Tsoumakas and Vlahavas 2011, "On the stratification of multi-label data", ECML PKDD,
    10.1007/978-3-642-23808-6_10.
    """
    has = targets > 0.5
    shares = np.asarray([*fractions, 1 - sum(fractions)])
    rows_wanted = shares * len(has)
    totals = has.sum(0)
    wanted = shares[:, None] * totals  # (parts, classes): how many of each label a part still lacks
    enough = (shares[:, None] > 0) & (totals >= (shares > 0).sum())
    wanted[:-1] = np.where(enough, np.maximum(wanted, 1), wanted)[:-1]
    wanted[-1] = totals - wanted[:-1].sum(0)
    order = np.asarray(sorted(range(len(ids)), key=lambda row: (position_seed(seed, "split", ids[row]), ids[row])))
    free = np.ones(len(has), dtype=bool)
    part_of = np.zeros(len(has), dtype=np.int64)

    def give(row: int, part: int) -> None:
        part_of[row], free[row] = part, False
        wanted[part, has[row]] -= 1
        rows_wanted[part] -= 1

    while free.any():
        left = has[free].sum(0)
        if not left.any():
            break
        label = int(np.where(left > 0, left, len(has) + 1).argmin())
        for row in order[has[order, label] & free[order]].tolist():
            give(row, _neediest(wanted[:, label], rows_wanted, shares))
    for row in order[free[order]].tolist():
        give(row, _neediest(rows_wanted, rows_wanted, shares))
    return [np.flatnonzero(part_of == part) for part in range(len(shares))]


def _neediest(first: NDArray[np.float64], second: NDArray[np.float64], shares: NDArray[np.float64]) -> int:
    keys = [(first[part], second[part], -part) if shares[part] > 0 else (-np.inf, 0, 0) for part in range(len(shares))]
    return max(range(len(shares)), key=keys.__getitem__)
