"""Paired comparison of two models by their predictions of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import ArrayLike, NDArray

from imgrec.utils.ranges import ClosedUnitInterval, NonNegativeInt, OpenUnitInterval, check_ranges


def discordant(first: ArrayLike, second: ArrayLike) -> tuple[int, int]:
    """Count the discordant images: those that only the first, and only the second model classified correctly.

    Args:
        first: Booleans of shape ``(N,)``: True if the first model classified the image correctly.
        second: Booleans of shape ``(N,)`` of the second model, for the same images.

    Raises:
        ValueError: If the shapes differ, there is no image, or the values are not booleans.

    Example:
        >>> discordant([True, True, False], [True, False, False])
        (1, 0)
    """
    one, other = _parse_pair(first, second)
    return int((one & ~other).sum()), int((other & ~one).sum())


@check_ranges
def mcnemar_exact(first_only: NonNegativeInt, second_only: NonNegativeInt) -> float:
    """Compute the two-sided p-value of McNemar's exact test.

    It is the probability of a split of the discordant images that is at least as uneven, for equally accurate models.
    Images that both models, or neither, classified correctly do not enter. The value is 1.0 without discordant images.

    Args:
        first_only: Number of images that only the first model classified correctly.
        second_only: Number of images that only the second model classified correctly.

    Raises:
        UserError: If a count is negative.

    Source: McNemar, 1947, doi:10.1007/BF02295996; for comparing classifiers: Dietterich, 1998,
    doi:10.1162/089976698300017197.

    Example:
        >>> round(mcnemar_exact(1, 9), 4)
        0.0215
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    total = first_only + second_only
    return float(binomtest(first_only, total, 0.5).pvalue) if total else 1.0


@check_ranges
def paired_bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    *,
    resamples: Annotated[int, Ge(100)] = 10_000,
    level: OpenUnitInterval = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
    seed: int = 0,
) -> tuple[float, float]:
    """Compute the bootstrap interval of the accuracy of the first model minus that of the second, over images.

    An image is drawn together with the predictions of both models. The difference depends only on the numbers of
    drawn images that only the first, only the second, or both or neither classified correctly. These three counts are
    multinomial. A resample therefore draws three numbers, for any number of images.

    Args:
        first: Booleans of shape ``(N,)``: True if the first model classified the image correctly.
        second: Booleans of shape ``(N,)`` of the second model, for the same images.
        resamples: Number of resamples, at least 100. Defaults to 10,000.
        level: Confidence level, in (0, 1). Defaults to 0.95.
        method: ``percentile`` or ``bca`` (bias-corrected and accelerated). With few discordant images, ``bca`` covers
            less than ``level``: 91 % instead of 95 % with eight of 200. Defaults to ``percentile``.
        seed: Seed of the resamples. Equal input gives equal intervals. Defaults to 0.

    Returns:
        Lower and upper end, in [-1, 1]. Both are the difference itself if all images have the same outcome, because
        the images then do not determine its uncertainty.

    Raises:
        UserError: If ``resamples`` or ``level`` is out of range.
        ValueError: If the shapes differ, there is no image, or the method is unknown.

    Source: Efron, 1987, doi:10.1080/01621459.1987.10478410.
    """
    if method not in ("percentile", "bca"):
        raise ValueError(f'method: expected "percentile" or "bca", got "{method}"')
    first_only, second_only = discordant(first, second)
    total = len(np.asarray(first))
    difference = (first_only - second_only) / total
    if total in (first_only, second_only) or first_only == second_only == 0:
        return difference, difference
    shares = np.array([first_only, second_only, total - first_only - second_only]) / total
    drawn = np.random.default_rng(seed).multinomial(total, shares, size=resamples)
    resampled = (drawn[:, 0] - drawn[:, 1]) / total
    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        ends = _bca_quantiles(resampled, difference, ends, np.array([1.0, -1.0, 0.0]) - difference, shares * total)
    low, high = np.quantile(resampled, ends)
    return float(low), float(high)


def _bca_quantiles(
    resampled: NDArray[np.float64],
    value: float,
    ends: NDArray[np.float64],
    deviations: NDArray[np.float64],
    counts: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the BCa quantiles of the resampled values. Of equal values half count as smaller."""
    normal = NormalDist()
    below = ((resampled < value).mean() + (resampled <= value).mean()) / 2
    bias = normal.inv_cdf(float(np.clip(below, 1 / len(resampled), 1 - 1 / len(resampled))))
    squares = float((counts * deviations**2).sum())
    acceleration = float((counts * deviations**3).sum()) / (6 * squares**1.5)
    shifted = bias + np.array([normal.inv_cdf(float(end)) for end in ends])
    moved = bias + shifted / (1 - acceleration * shifted)
    return np.array([normal.cdf(float(z)) for z in moved])


@check_ranges
def holm(p_values: Sequence[ClosedUnitInterval]) -> list[float]:
    """Adjust p-values for their number by Holm's step-down method.

    If the hypotheses with an adjusted p-value below 0.05 are rejected, the probability of at least one false rejection
    is at most 5 %.

    Args:
        p_values: Probabilities, in [0, 1].

    Returns:
        Adjusted p-values, in the given order.

    Raises:
        UserError: If a value is out of range.

    Source: Holm, 1979, Scandinavian Journal of Statistics 6, 65-70.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _parse_pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    one, other = np.asarray(first), np.asarray(second)
    if one.ndim != 1 or one.shape != other.shape or not len(one):
        raise ValueError(f"expected two arrays of one shape (N,), got {one.shape} and {other.shape}")
    if one.dtype != np.bool_ or other.dtype != np.bool_:
        raise ValueError(f"expected booleans (True: classified correctly), got {one.dtype} and {other.dtype}")
    return one, other
