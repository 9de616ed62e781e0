from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from imgrec.stats.seeds import _variances, difference_over_seeds, rate_for, rate_of_single_run

PAGE = Path(__file__).parents[2] / "docs" / "comparing.md"


def recipes(
    generator: np.random.Generator,
    seeds: tuple[int, int],
    images: int,
    spread: float,
    own: float = 0.8,
    gain: float = 0,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Runs of two recipes: an image is right where its ease, the recipe's way with it, the seed and chance add up."""
    ease = 3.2 + generator.normal(0, 2.5, images)
    made = []
    for count, more in zip(seeds, (gain, 0.0), strict=True):
        logit = ease + more + generator.normal(0, own, images) + generator.normal(0, spread, (count, 1))
        made.append(logit + generator.logistic(size=(count, images)) > 0)
    return made[0], made[1]


def one_against_a_group(
    generator: np.random.Generator, runs: int, images: int, group: float, single: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Runs of two equal recipes with other spreads over seeds, in points of accuracy; the first has one run."""
    ease = 3.2 + generator.normal(0, 2.5, images)
    made = []
    for count, points in ((1, single), (runs, group)):
        seeds = generator.normal(0, points / 7.51, (count, 1))  # a logit is worth 7.51 points at 84 %
        logit = ease + generator.normal(0, 0.8, images) + seeds
        made.append(generator.random((count, images)) < 1 / (1 + np.exp(-logit)))
    return made[0], made[1]


def bootstrapped(first: NDArray[np.bool_], second: NDArray[np.bool_], rng: np.random.Generator) -> tuple[float, float]:
    """The percentile interval of a bootstrap over images and seeds, the usual way."""
    both = np.vstack([first, second])
    patterns = np.arange(2 ** len(both))[:, None] >> np.arange(len(both)) & 1
    shares = np.bincount(2 ** np.arange(len(both)) @ both, minlength=len(patterns)) / both.shape[1]
    by_run = rng.multinomial(both.shape[1], shares, size=1000) @ patterns / both.shape[1]
    drawn = [rng.multinomial(len(x), [1 / len(x)] * len(x), size=1000) / len(x) for x in (first, second)]
    found = (by_run * np.hstack([drawn[0], -drawn[1]])).sum(axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def test_the_variance_is_that_of_experiments_done_anew() -> None:
    """Over many experiments with new seeds and new images, the stated variance is the real one."""
    generator = np.random.default_rng(0)
    found, stated = [], []
    for _ in range(600):
        said = difference_over_seeds(*recipes(generator, (6, 6), 400, spread=0.25))
        found.append(said.difference)
        half = (said.high - said.low) / 2
        stated.append((half / stats.t.ppf(0.975, said.degrees)) ** 2)
    assert np.mean(stated) == pytest.approx(np.var(found), rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("seeds", [(2, 2), (3, 3), (5, 3), (1, 3)])
def test_equal_recipes_are_rarely_called_different(seeds: tuple[int, int], spread: float) -> None:
    generator = np.random.default_rng(3)
    alarms = [difference_over_seeds(*recipes(generator, seeds, 1000, spread)).p < 0.05 for _ in range(500)]
    assert np.mean(alarms) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 500)


@pytest.mark.slow
def test_three_seeds_are_too_few_for_a_bootstrap_and_enough_for_this() -> None:
    generator, draws = np.random.default_rng(1), np.random.default_rng(2)
    alarms = np.zeros(2)
    for _ in range(200):
        first, second = recipes(generator, (3, 3), 1000, spread=0.4, own=0.0)
        low, high = bootstrapped(first, second, draws)
        said = difference_over_seeds(first, second)
        alarms += [low > 0 or high < 0, said.low > 0 or said.high < 0]
    assert alarms[0] / 200 > 0.1
    assert alarms[1] / 200 < 0.1


def test_a_real_gain_is_found() -> None:
    said = difference_over_seeds(*recipes(np.random.default_rng(0), (5, 5), 5000, spread=0.1, gain=0.6))
    assert said.p < 0.001
    assert 0 < said.low < said.difference < said.high < 0.1


def test_with_many_images_it_is_welchs_test_on_the_accuracies() -> None:
    first, second = recipes(np.random.default_rng(5), (4, 3), 60_000, spread=0.5, own=0.0, gain=0.5)
    said = difference_over_seeds(first, second)
    welch = stats.ttest_ind(first.mean(axis=1), second.mean(axis=1), equal_var=False)
    assert said.p == pytest.approx(welch.pvalue, rel=0.1)
    low, high = welch.confidence_interval(0.95)
    np.testing.assert_allclose((said.low, said.high), (low, high), rtol=0.05)
    assert said.images_error < said.seeds_error


def test_the_second_minus_the_first_is_the_negative() -> None:
    first, second = recipes(np.random.default_rng(6), (3, 4), 500, spread=0.3)
    said, again = difference_over_seeds(first, second), difference_over_seeds(second, first)
    assert (said.difference, said.low, said.high) == pytest.approx((-again.difference, -again.high, -again.low))
    assert said.p == pytest.approx(again.p)
    assert (said.p < 0.05) == (said.low > 0 or said.high < 0)


def test_interval_and_p_are_one_statement() -> None:
    generator = np.random.default_rng(7)
    for _ in range(40):
        first, second = recipes(generator, (2, 5), 300, spread=0.2, gain=0.5)
        p = difference_over_seeds(first, second).p
        at_p = difference_over_seeds(first, second, level=1 - p)
        assert min(abs(at_p.low), abs(at_p.high)) == pytest.approx(0, abs=1e-9)


def test_a_single_run_borrows_the_spread_of_the_other_recipe() -> None:
    first, second = recipes(np.random.default_rng(8), (1, 4), 2000, spread=0.3)
    said = difference_over_seeds(first, second)
    assert said.degrees >= 3
    spread = second.mean(axis=1).var(ddof=1)
    assert said.seeds_error == pytest.approx(np.sqrt(spread * (1 + 1 / 4)))


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
def test_a_single_run_that_spreads_more_is_wrong_as_often_as_the_page_states(
    runs: int, images: int, group: float, single: float, stated: float, simulations: int
) -> None:
    """The rate of docs/comparing.md, and the computed one, are those of a simulation with another seed."""
    generator = np.random.default_rng(11)
    alarms, computed = 0, []
    for _ in range(simulations):
        one, several = one_against_a_group(generator, runs, images, group, single)
        alarms += difference_over_seeds(one, several).p < 0.05
        noise = _variances(several)[1]
        by_image = one.mean(axis=0) - several.mean(axis=0)
        error = float(np.sqrt(by_image.var(ddof=1) / images))
        spread = float(np.sqrt((group / 100) ** 2 + noise))
        computed.append(rate_of_single_run(runs, spread, single / 100, error, noise, images))
        if len(computed) > 20:
            computed.pop(0)
    give = 3 * np.sqrt(stated * (100 - stated) / simulations) + 1
    assert 100 * alarms / simulations == pytest.approx(stated, abs=give)
    assert 100 * np.mean(computed) == pytest.approx(stated, abs=4)
    row = [line for line in PAGE.read_text().splitlines() if line.startswith(f"| {images:,} | {runs} | ")][-1]
    assert f" {stated} " in row.replace("*", "")


def test_the_rate_for_two_recipes_takes_their_own_figures() -> None:
    one, several = one_against_a_group(np.random.default_rng(4), 3, 10_000, 0.3, 1.0)
    spread = float(several.mean(axis=1).std(ddof=1))
    rates = [rate_for(several, one, factor * spread) for factor in (1, 3, 10)]
    assert rates[0] < 0.08 < rates[1] < rates[2]


def test_equal_runs_do_not_differ() -> None:
    runs = np.tile(np.arange(40) % 3 > 0, (3, 1))
    said = difference_over_seeds(runs, runs)
    assert (said.difference, said.low, said.high, said.p) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (np.ones((1, 9), bool), np.ones((1, 9), bool), "two runs or more of one recipe"),
        (np.ones((2, 9), bool), np.ones((0, 9), bool), "two runs or more of one recipe"),
        (np.ones((2, 9), bool), np.ones((2, 8), bool), r"\(R, N\) and \(S, N\)"),
        (np.ones((2, 1), bool), np.ones((2, 1), bool), "two images or more"),
        (np.ones((2, 9)), np.ones((2, 9)), "booleans"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    first: NDArray[np.bool_], second: NDArray[np.bool_], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        difference_over_seeds(first, second)
