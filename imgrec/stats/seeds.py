"""Whether two recipes differ, from several runs of each on the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class SeedsDifference:
    """The difference of two recipes' mean accuracies, first minus second, with its interval and its p-value.

    ``seeds_error`` and ``images_error`` are the standard errors that the choice of the seeds and the choice of the
    images would give alone; ``degrees`` the degrees of freedom of Student's t.
    """

    difference: float
    low: float
    high: float
    p: float
    seeds_error: float
    images_error: float
    degrees: float


def difference_over_seeds(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> SeedsDifference:
    """How two recipes differ in accuracy: over other seeds and over other images like these.

    Seeds and images are crossed: each run is tested on all the images. A run's accuracy is the recipe's mean, plus
    what its seed adds, plus what the images add, plus what this seed adds on these images. The variance of the
    difference is put together from the spread of the runs' accuracies and the spread of the images' differences, less
    what both hold, and is never smaller than either alone; the interval is Student's t with Satterthwaite's degrees of
    freedom. Of a recipe with a single run the spread is taken to be the other's: if it is larger, the test calls equal
    recipes different too often. :func:`rate_of_single_run` computes how often.

    A bootstrap over seeds and images is the usual way and needs more seeds than one has: three values resampled
    spread too little, and where the seeds matter it calls equal recipes different in 9 to 28 of 100 comparisons
    instead of 5 (docs/comparing.md has the figures).

    Shapes: ``first`` booleans ``(R, N)``, whether each of R runs named each of N images correctly; ``second``
    ``(S, N)``, the same images in the same order. R or S is at least 2.

    Raises:
        ValueError: the shapes do not belong together, both have one run, there are fewer than two images, the values
            are not booleans, or the level is no probability.

    Source: Owen, 2007, doi:10.1214/07-AOAS122 (the variance of crossed means); Satterthwaite, 1946,
    doi:10.2307/3002019.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]

    one, other = np.asarray(first), np.asarray(second)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or one.shape[1] < 2:
        raise ValueError(f"expected (R, N) and (S, N) with two images or more, got {one.shape} and {other.shape}")
    if min(len(one), len(other)) < 1 or max(len(one), len(other)) < 2:
        raise ValueError(f"expected two runs or more of one recipe, and one of the other, got {len(one)}, {len(other)}")
    if one.dtype != np.bool_ or other.dtype != np.bool_:
        raise ValueError(f"expected booleans, whether each image was right, got {one.dtype} and {other.dtype}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    by_image = one.mean(axis=0) - other.mean(axis=0)
    difference = float(by_image.mean())
    images = float(by_image.var(ddof=1)) / len(by_image)
    parts, rest = [], 0.0
    for runs, lender in ((one, other), (other, one)):
        measured = runs if len(runs) > 1 else lender
        spread, noise = _variances(measured)
        parts.append((spread / len(runs), len(measured) - 1))
        rest += noise / len(runs)
    if min(len(one), len(other)) == 1:  # both parts are one estimate: they share its degrees of freedom
        parts = [(parts[0][0] + parts[1][0], parts[0][1])]
    seeds = sum(part for part, _ in parts)
    variance = max(seeds + images - rest, seeds, images)
    parts.append((images, len(by_image) - 1))
    weights = sum(part**2 / degrees for part, degrees in parts)
    degrees = variance**2 / weights if weights > 0 else float("inf")
    error = math.sqrt(variance)
    half = error * float(student.ppf((1 + level) / 2, degrees))
    p = 2 * float(student.sf(abs(difference) / error, degrees)) if error > 0 else float(difference == 0)
    low, high = max(-1.0, difference - half), min(1.0, difference + half)
    return SeedsDifference(difference, low, high, p, math.sqrt(seeds), math.sqrt(images), degrees)


def rate_of_single_run(
    runs: int,
    spread: float,
    single_spread: float,
    images_error: float,
    noise: float = 0.0,
    images: int = 10_000,
    level: float = 0.05,
) -> float:
    """Return how often a group and a single run of equal recipes are called different, if their spreads differ.

    :func:`difference_over_seeds` takes the spread of a single run to be that of the group. The rate is above ``level``
    if the recipe of the single run spreads more.

    Args:
        runs: number of runs of the group, 2 or more.
        spread: standard deviation of the accuracies of the group's runs, as it is observed.
        single_spread: standard deviation over seeds that the recipe of the single run has in truth.
        images_error: standard error of the difference that the choice of the images gives.
        noise: the part of the variance of an accuracy that comes from the images being finitely many.
        images: number of images.
        level: the p-value below which two recipes are called different.

    >>> rates = [rate_of_single_run(3, 0.003, each, 0.003, 7e-6) for each in (0.003, 0.01)]
    >>> [round(rate, 2) for rate in rates]
    [0.06, 0.3]
    """
    from scipy.stats import chi2, norm
    from scipy.stats import t as student

    shares = (np.arange(2000) + 0.5) / 2000
    found = spread**2 * chi2.ppf(shares, runs - 1) / (runs - 1)  # what the variance is estimated to be, evenly likely
    seeds, pictures = found * (1 + 1 / runs), images_error**2
    variance = np.maximum(np.maximum(seeds + pictures - noise * (1 + 1 / runs), seeds), pictures)
    degrees = variance**2 / (seeds**2 / (runs - 1) + pictures**2 / (images - 1))
    true = single_spread**2 + max(spread**2 - noise, 0.0) / runs + pictures
    limit = student.ppf(1 - level / 2, degrees) * np.sqrt(variance / true)
    return float(2 * norm.sf(limit).mean())


def rate_for(several: ArrayLike, single: ArrayLike, single_spread: float) -> float:
    """Return :func:`rate_of_single_run` of a group and a single run, with the figures of both.

    Shapes: ``several`` booleans ``(R, N)`` with R of 2 or more, if each of R runs named each of N images correctly;
    ``single`` ``(1, N)``, the same images.

    Args:
        several: the runs of the group.
        single: the single run.
        single_spread: standard deviation over seeds that the recipe of the single run has in truth.
    """
    group, one = np.asarray(several), np.asarray(single)
    variance, noise = _variances(group)
    by_image = group.mean(axis=0) - one.mean(axis=0)
    images_error = math.sqrt(float(by_image.var(ddof=1)) / len(by_image))
    return rate_of_single_run(len(group), math.sqrt(variance), single_spread, images_error, noise, len(by_image))


def _variances(runs: NDArray[np.bool_]) -> tuple[float, float]:
    """The variance of the runs' accuracies, and the part of it that comes from the images being finitely many."""
    count, images = runs.shape
    values = runs.astype(np.float64)
    by_run = values.mean(axis=1, keepdims=True)
    residual = values - by_run - values.mean(axis=0) + values.mean()
    noise = float((residual**2).sum()) / ((count - 1) * (images - 1))
    return float(by_run.var(ddof=1)), noise / images
