"""Comparison of two recipes by several runs of each on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from annotated_types import Ge
from numpy.typing import ArrayLike, NDArray

from imgrec.utils.ranges import NonNegativeFloat, OpenUnitInterval, check_ranges


@dataclass(frozen=True)
class SeedsDifference:
    """Difference of the mean accuracies of two recipes, first minus second, with its interval and p-value.

    Attributes:
        difference: Difference of the mean accuracies, in [-1, 1].
        low: Lower end of its interval.
        high: Upper end of its interval.
        p: Two-sided p-value.
        seeds_error: Standard error that the choice of the seeds alone causes.
        images_error: Standard error that the choice of the images alone causes.
        degrees: Degrees of freedom of Student's t.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds_error: float
    images_error: float
    degrees: float


@check_ranges
def difference_over_seeds(first: ArrayLike, second: ArrayLike, level: OpenUnitInterval = 0.95) -> SeedsDifference:
    """Compute the difference of the accuracies of two recipes, over the choice of seeds and of images.

    Seeds and images are crossed: every run is tested on all images. The accuracy of a run is the mean of the recipe,
    plus a seed effect, an image effect, and their interaction. The variance of the difference is the variance of the
    runs' accuracies plus the variance of the images' differences, less the part that both contain. It is never smaller
    than either alone. The interval is Student's t with Satterthwaite's degrees of freedom. A recipe with a single run
    is assigned the variance of the other recipe. If its true variance is larger, equal recipes differ significantly too
    often. :func:`false_positive_rate` computes this rate.

    The usual bootstrap over seeds and images requires more seeds, because three resampled values have too little
    variance. If the seeds matter, it reports a difference of equal recipes in 9 to 28 of 100 comparisons instead of 5
    (docs/comparing.md contains the figures).

    Args:
        first: Booleans of shape ``(R, N)``: True if a run of the first recipe classified an image correctly.
        second: Booleans of shape ``(S, N)`` of the second recipe, for the same images in the same order. R or S is at
            least 2.
        level: Confidence level, in (0, 1). Defaults to 0.95.

    Raises:
        UserError: If ``level`` is out of range.
        ValueError: If the shapes do not match, both recipes have one run, there are fewer than two images, or the
            values are not booleans.

    Source: Owen, 2007, doi:10.1214/07-AOAS122 (the variance of crossed means); Satterthwaite, 1946,
    doi:10.2307/3002019.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]

    one, other = _parse_runs(first, second)
    by_image = one.mean(axis=0) - other.mean(axis=0)
    difference = float(by_image.mean())
    images = float(by_image.var(ddof=1)) / len(by_image)
    seeds, variance, degrees = _combined_variance(one, other, images)
    error = math.sqrt(variance)
    half = error * float(student.ppf((1 + level) / 2, degrees))
    p = 2 * float(student.sf(abs(difference) / error, degrees)) if error > 0 else float(difference == 0)
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return SeedsDifference(difference, low, high, p, math.sqrt(seeds), math.sqrt(images), degrees)


@check_ranges
def false_positive_rate(
    runs: Annotated[int, Ge(2)],
    spread: NonNegativeFloat,
    single_spread: NonNegativeFloat,
    images_error: NonNegativeFloat,
    noise: float = 0.0,
    images: Annotated[int, Ge(2)] = 10_000,
    level: OpenUnitInterval = 0.05,
) -> float:
    """Return the rate of significant differences of a group and a single run of equal recipes with different variances.

    :func:`difference_over_seeds` assigns the variance of the group to a single run. The rate is above ``level`` if the
    variance of the recipe of the single run is larger.

    Args:
        runs: Number of runs of the group, at least 2.
        spread: Observed standard deviation of the accuracies of the group's runs.
        single_spread: True standard deviation over seeds of the recipe of the single run.
        images_error: Standard error of the difference that the choice of the images causes.
        noise: Part of the variance of an accuracy that the finite number of images causes. Defaults to 0.
        images: Number of images, at least 2. Defaults to 10,000.
        level: Significance level, in (0, 1). Defaults to 0.05.

    Example:
        >>> rates = [false_positive_rate(3, 0.003, each, 0.003, 7e-6) for each in (0.003, 0.01)]
        >>> [round(rate, 2) for rate in rates]
        [0.06, 0.3]
    """
    from scipy.stats import chi2, norm
    from scipy.stats import t as student

    shares = (np.arange(2000) + 0.5) / 2000
    estimates = spread**2 * chi2.ppf(shares, runs - 1) / (runs - 1)  # equally probable estimates of the variance
    by_seeds, by_images = estimates * (1 + 1 / runs), images_error**2
    variance = np.maximum(np.maximum(by_seeds + by_images - noise * (1 + 1 / runs), by_seeds), by_images)
    degrees = variance**2 / (by_seeds**2 / (runs - 1) + by_images**2 / (images - 1))
    true_variance = single_spread**2 + max(spread**2 - noise, 0.0) / runs + by_images
    limit = student.ppf(1 - level / 2, degrees) * np.sqrt(variance / true_variance)
    return float(2 * norm.sf(limit).mean())


@check_ranges
def estimate_false_positive_rate(several: ArrayLike, single: ArrayLike, single_spread: NonNegativeFloat) -> float:
    """Return :func:`false_positive_rate` for the runs of a group and a single run.

    Args:
        several: Booleans of shape ``(R, N)`` with R >= 2: True if a run of the group classified an image correctly.
        single: Booleans of shape ``(1, N)`` of the single run, for the same images.
        single_spread: True standard deviation over seeds of the recipe of the single run.
    """
    group, one = np.asarray(several), np.asarray(single)
    variance, noise = _variances(group)
    by_image = group.mean(axis=0) - one.mean(axis=0)
    images_error = math.sqrt(float(by_image.var(ddof=1)) / len(by_image))
    return false_positive_rate(len(group), math.sqrt(variance), single_spread, images_error, noise, len(by_image))


def _parse_runs(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    one, other = np.asarray(first), np.asarray(second)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or one.shape[1] < 2:
        raise ValueError(f"expected (R, N) and (S, N) with two images or more, got {one.shape} and {other.shape}")
    if min(len(one), len(other)) < 1 or max(len(one), len(other)) < 2:
        raise ValueError(f"expected two runs or more of one recipe, and one of the other, got {len(one)}, {len(other)}")
    if one.dtype != np.bool_ or other.dtype != np.bool_:
        raise ValueError(f"expected booleans (True: classified correctly), got {one.dtype} and {other.dtype}")
    return one, other


def _combined_variance(one: NDArray[np.bool_], other: NDArray[np.bool_], images: float) -> tuple[float, float, float]:
    """Return the variance from seeds, the variance of the difference, and its degrees of freedom."""
    parts, rest = [], 0.0
    for runs, others in ((one, other), (other, one)):
        measured = runs if len(runs) > 1 else others
        spread, noise = _variances(measured)
        parts.append((spread / len(runs), len(measured) - 1))
        rest += noise / len(runs)
    if min(len(one), len(other)) == 1:  # both parts are one estimate with its degrees of freedom
        parts = [(parts[0][0] + parts[1][0], parts[0][1])]
    seeds = sum(part for part, _ in parts)
    variance = max(seeds + images - rest, seeds, images)
    parts.append((images, one.shape[1] - 1))
    weights = sum(part**2 / degrees for part, degrees in parts)
    return seeds, variance, variance**2 / weights if weights > 0 else float("inf")


def _variances(runs: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the variance of the runs' accuracies, and the part of it that the finite number of images causes."""
    count, images = runs.shape
    values = runs.astype(np.float64)
    by_run = values.mean(axis=1, keepdims=True)
    residual = values - by_run - values.mean(axis=0) + values.mean()
    noise = float((residual**2).sum()) / ((count - 1) * (images - 1))
    return float(by_run.var(ddof=1)), noise / images
