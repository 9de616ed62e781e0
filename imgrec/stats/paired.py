"""Whether two models differ, from what each said of the same images: NumPy in, NumPy out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """How many images only the first model named correctly, and how many only the second.

    Shapes: ``first`` and ``second`` booleans ``(N,)``, whether each image was named correctly.

    Raises:
        ValueError: the shapes differ, there is no image, or the values are not booleans.

    >>> discordant([True, True, False], [True, False, False])
    (1, 0)
    """
    one, other = _checked(first, second)
    return int((one & ~other).sum()), int((other & ~one).sum())


def mcnemar_exact(first_only: int, second_only: int) -> float:
    """The two-sided p-value of McNemar's exact test: that as many discordant images would fall so unevenly by chance.

    The images that both models named correctly, or neither, say nothing about which is better and are not asked for.
    1.0 where there is no discordant image.

    Args:
        first_only: how many images only the first model named correctly.
        second_only: how many only the second.

    Raises:
        ValueError: a count is negative.

    Source: McNemar, 1947, doi:10.1007/BF02295996; for comparing classifiers: Dietterich, 1998,
    doi:10.1162/089976698300017197.

    >>> round(mcnemar_exact(1, 9), 4)
    0.0215
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    if min(first_only, second_only) < 0:
        raise ValueError(f"expected counts, got {first_only} and {second_only}")
    total = first_only + second_only
    return float(binomtest(first_only, total, 0.5).pvalue) if total else 1.0


def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> tuple[float, float]:
    """The bootstrap interval of ``accuracy of first - accuracy of second`` over images like these.

    An image is drawn with what both models said of it. All that the difference depends on is how many of the drawn
    images speak for the first model, for the second, or for neither: these three counts are multinomial, so that a
    resample costs three numbers, whatever the count of images.

    Shapes: ``first`` and ``second`` booleans ``(N,)``, whether each image was named correctly.

    Args:
        first: what the first model got right.
        second: what the second model got right.
        resamples: how many draws.
        level: the confidence, between 0 and 1.
        method: ``percentile``; or ``bca`` (bias-corrected and accelerated), which covers less than it promises where
            few images tell the models apart (91 % instead of 95 with eight of 200).
        seed: of the draws; equal input gives equal intervals.

    Returns:
        The low and the high end, between -1 and 1. Both are the difference itself where every image says the same:
        then the images cannot tell how far it may be off.

    Raises:
        ValueError: the shapes differ, there is no image, or an argument lies out of its range.

    Source: Efron, 1987, doi:10.1080/01621459.1987.10478410.
    """
    if resamples < 100 or not 0 < level < 1:
        raise ValueError(f"expected 100 resamples or more and a level in (0, 1), got {resamples} and {level}")
    if method not in ("percentile", "bca"):
        raise ValueError(f'method: expected "percentile" or "bca", got "{method}"')
    for_first, for_second = discordant(first, second)
    total = len(np.asarray(first))
    difference = (for_first - for_second) / total
    if total in (for_first, for_second) or for_first == for_second == 0:
        return difference, difference
    shares = np.array([for_first, for_second, total - for_first - for_second]) / total
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=resamples)
    found = (drawn[:, 0] - drawn[:, 1]) / total
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        ends = _bca(found, difference, ends, np.array([1.0, -1.0, 0.0]) - difference, shares * total)
    low, high = np.quantile(found, ends)
    return float(low), float(high)


def _bca(
    found: NDArray[np.float64],
    value: float,
    ends: NDArray[np.float64],
    deviations: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The shares at which to read the resampled values; of equal ones half count as smaller."""
    normal = NormalDist()
    below = ((found < value).mean() + (found <= value).mean()) / 2
    bias = normal.inv_cdf(float(np.clip(below, 1 / len(found), 1 - 1 / len(found))))
    squares = float((counts * deviations**2).sum())
    acceleration = float((counts * deviations**3).sum()) / (6 * squares**1.5)
    shifted = bias + np.array([normal.inv_cdf(float(end)) for end in ends])
    moved = bias + shifted / (1 - acceleration * shifted)
    return np.array([normal.cdf(float(z)) for z in moved])


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number by Holm's step-down method, in the given order.

    To call those below 0.05 different is to call none of the equal ones so, in 95 of 100 such families of tests.

    Raises:
        ValueError: a value lies outside [0, 1].

    Source: Holm, 1979, Scandinavian Journal of Statistics 6, 65-70.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    if any(math.isnan(p) or not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"expected p-values between 0 and 1, got {list(p_values)}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, at in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted


def _checked(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    one, other = np.asarray(first), np.asarray(second)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise ValueError(f"expected two arrays of one shape (N,), got {one.shape} and {other.shape}")
    if one.dtype != np.bool_ or other.dtype != np.bool_:
        raise ValueError(f"expected booleans, whether each image was right, got {one.dtype} and {other.dtype}")
    return one, other
