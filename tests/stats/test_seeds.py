from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from imgrec.stats.seeds import _variances, difference_over_seeds, estimate_false_positive_rate, false_positive_rate

PAGE = Path(__file__).parents[2] / "docs" / "comparing.md"


def recipes(
    generator: np.random.Generator,
    seeds: tuple[int, int],
    images: int,
    spread: float,
    interaction: float = 0.8,
    gain: float = 0,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Simulate runs of two recipes. The logit of an image is the sum of image, interaction, recipe and seed effects."""
    image_effect = 3.2 + generator.normal(0, 2.5, images)
    runs_of_both = []
    for count, effect in zip(seeds, (gain, 0.0), strict=True):
        logit = (
            image_effect + effect + generator.normal(0, interaction, images) + generator.normal(0, spread, (count, 1))
        )
        runs_of_both.append(logit + generator.logistic(size=(count, images)) > 0)
    return runs_of_both[0], runs_of_both[1]


def single_run_and_group(
    generator: np.random.Generator, runs: int, images: int, group: float, single: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Simulate a single run and a group of equal recipes. ``group`` and ``single``: their spreads in points."""
    image_effect = 3.2 + generator.normal(0, 2.5, images)
    runs_of_both = []
    for count, points in ((1, single), (runs, group)):
        seeds = generator.normal(0, points / 7.51, (count, 1))  # a logit is worth 7.51 points at 84 %
        logit = image_effect + generator.normal(0, 0.8, images) + seeds
        runs_of_both.append(generator.random((count, images)) < 1 / (1 + np.exp(-logit)))
    return runs_of_both[0], runs_of_both[1]


def bootstrap_interval(
    first: NDArray[np.bool_], second: NDArray[np.bool_], rng: np.random.Generator
) -> tuple[float, float]:
    """Compute the percentile interval of the usual bootstrap over images and seeds."""
    both = np.vstack([first, second])
    patterns = np.arange(2 ** len(both))[:, None] >> np.arange(len(both)) & 1
    shares = np.bincount(2 ** np.arange(len(both)) @ both, minlength=len(patterns)) / both.shape[1]
    by_run = rng.multinomial(both.shape[1], shares, size=1000) @ patterns / both.shape[1]
    drawn = [rng.multinomial(len(x), [1 / len(x)] * len(x), size=1000) / len(x) for x in (first, second)]
    found = (by_run * np.hstack([drawn[0], -drawn[1]])).sum(axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def test_stated_variance_equals_that_of_repeated_experiments() -> None:
    generator = np.random.default_rng(0)
    differences, stated = [], []
    for _ in range(600):
        found = difference_over_seeds(*recipes(generator, (6, 6), 400, spread=0.25))
        differences.append(found.difference)
        half = (found.high - found.low) / 2
        stated.append((half / stats.t.ppf(0.975, found.degrees)) ** 2)
    assert np.mean(stated) == pytest.approx(np.var(differences), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 3), (1, 3)])
def test_equal_recipes_rarely_differ_significantly(seeds: tuple[int, int], spread: float) -> None:
    generator = np.random.default_rng(3)
    alarms = [difference_over_seeds(*recipes(generator, seeds, 1000, spread)).p < 0.05 for _ in range(500)]
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)


@pytest.mark.slow
def test_three_seeds_suffice_unlike_for_a_bootstrap() -> None:
    generator, draws = np.random.default_rng(1), np.random.default_rng(2)
    alarms = np.zeros(2)
    for _ in range(200):
        first, second = recipes(generator, (3, 3), 1000, spread=0.4, interaction=0.0)
        low, high = bootstrap_interval(first, second, draws)
        found = difference_over_seeds(first, second)
        alarms += [low > 0 or high < 0, found.low > 0 or found.high < 0]
    assert alarms[0] / 200 > 0.1
    assert alarms[1] / 200 < 0.1


def test_true_gain_is_significant() -> None:
    found = difference_over_seeds(*recipes(np.random.default_rng(0), (5, 5), 5000, spread=0.1, gain=0.6))
    assert found.p < 0.001
    assert 0 < found.low < found.difference < found.high < 0.1


def test_with_many_images_it_equals_welchs_test_of_the_accuracies() -> None:
    first, second = recipes(np.random.default_rng(5), (4, 3), 60_000, spread=0.5, interaction=0.0, gain=0.5)
    found = difference_over_seeds(first, second)
    welch = stats.ttest_ind(first.mean(axis=1), second.mean(axis=1), equal_var=False)
    assert found.p == pytest.approx(welch.pvalue, rel=0.1)
    low, high = welch.confidence_interval(0.95)
    np.testing.assert_allclose((found.low, found.high), (low, high), rtol=0.05)
    assert found.images_error < found.seeds_error


def test_swapped_recipes_give_the_negative_difference() -> None:
    first, second = recipes(np.random.default_rng(6), (3, 4), 500, spread=0.3)
    found, swapped = difference_over_seeds(first, second), difference_over_seeds(second, first)
    assert (found.difference, found.low, found.high) == pytest.approx(
        (-swapped.difference, -swapped.high, -swapped.low)
    )
    assert found.p == pytest.approx(swapped.p)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_interval_and_p_value_agree() -> None:
    generator = np.random.default_rng(7)
    for _ in range(40):
        first, second = recipes(generator, (2, 5), 300, spread=0.2, gain=0.5)
        p = difference_over_seeds(first, second).p
        at_p = difference_over_seeds(first, second, level=1 - p)
        assert min(abs(at_p.low), abs(at_p.high)) == pytest.approx(0, abs=1e-9)


def test_single_run_is_assigned_the_variance_of_the_other_recipe() -> None:
    first, second = recipes(np.random.default_rng(8), (1, 4), 2000, spread=0.3)
    found = difference_over_seeds(first, second)
    assert found.degrees >= 3
    spread = second.mean(axis=1).var(ddof=1)
    assert found.seeds_error == pytest.approx(np.sqrt(spread * (1 + 1 / 4)))


@pytest.mark.parametrize(
    ("runs", "images", "group", "single", "stated", "simulations"),
    [
        pytest.param(3, 10_000, 0.3, 1.0, 22.3, 150),
        pytest.param(3, 10_000, 0.3, 0.3, 3.6, 600, marks=pytest.mark.slow),
        pytest.param(3, 10_000, 0.3, 0.6, 10.9, 600, marks=pytest.mark.slow),
        pytest.param(3, 1000, 0.3, 1.0, 6.2, 600, marks=pytest.mark.slow),
        pytest.param(5, 1000, 1.0, 1.0, 3.3, 600, marks=pytest.mark.slow),
        pytest.param(5, 10_000, 0.3, 1.0, 32.9, 600, marks=pytest.mark.slow),
    ],
)
def test_false_positive_rate_of_a_single_run_equals_the_documented_rate(
    runs: int, images: int, group: float, single: float, stated: float, simulations: int
) -> None:
    """Compare a simulation with the computed rate and that of docs/comparing.md."""
    generator = np.random.default_rng(11)
    alarms, computed = 0, []
    for _ in range(simulations):
        one, several = single_run_and_group(generator, runs, images, group, single)
        alarms += difference_over_seeds(one, several).p < 0.05
        noise = _variances(several)[1]
        by_image = one.mean(axis=0) - several.mean(axis=0)
        error = float(np.sqrt(by_image.var(ddof=1) / images))
        spread = float(np.sqrt((group / 100) ** 2 + noise))
        computed.append(false_positive_rate(runs, spread, single / 100, error, noise, images))
        if len(computed) > 20:
            computed.pop(0)
    tolerance = 3 * np.sqrt(stated * (100 - stated) / simulations) + 1
    assert 100 * alarms / simulations == pytest.approx(stated, abs=tolerance)
    assert 100 * np.mean(computed) == pytest.approx(stated, abs=4)
    row = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {images:,} | {runs} | ")][-1]
    assert f" {stated} " in row.replace("*", "")


def test_estimated_rate_grows_with_the_spread_of_the_single_run() -> None:
    one, several = single_run_and_group(np.random.default_rng(4), 3, 10_000, 0.3, 1.0)
    spread = float(several.mean(axis=1).std(ddof=1))
    rates = [estimate_false_positive_rate(several, one, factor * spread) for factor in (1, 3, 10)]
    assert rates[0] < 0.08 < rates[1] < rates[2]


def test_equal_runs_have_no_difference() -> None:
    runs = np.tile(np.arange(40) % 3 > 0, (3, 1))
    found = difference_over_seeds(runs, runs)
    assert (found.difference, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (np.ones((1, 9), bool), np.ones((1, 9), bool), "two runs or more of one recipe"),
        (np.ones((2, 9), bool), np.ones((0, 9), bool), "two runs or more of one recipe"),
        (np.ones((2, 9), bool), np.ones((2, 8), bool), r"\(R, N\) and \(S, N\)"),
        (np.ones((2, 1), bool), np.ones((2, 1), bool), "two images or more"),
        (np.ones((2, 9)), np.ones((2, 9)), "booleans"),
    ],
)
def test_invalid_runs_are_rejected(first: NDArray[np.bool_], second: NDArray[np.bool_], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        difference_over_seeds(first, second)
