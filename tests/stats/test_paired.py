from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats  # type: ignore[import-untyped]

from imgrec.stats.paired import discordant, holm, mcnemar_exact, paired_bootstrap


def correct_pairs(
    total: int, first_only: int, second_only: int, seed: int = 0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return which images two models classify correctly, with given numbers of discordant images."""
    generator = np.random.default_rng(seed)
    kinds = np.array([[True, False]] * first_only + [[False, True]] * second_only)
    both = generator.random(total - len(kinds)) < 0.9
    stacked = np.concatenate([kinds.reshape(-1, 2), np.stack([both, both], axis=1)])
    first, second = generator.permutation(stacked).T
    return first, second


@pytest.mark.parametrize(("first_only", "second_only"), [(1, 9), (0, 6), (7, 7), (13, 4), (150, 86), (0, 1)])
def test_mcnemar_p_value_is_the_sum_of_both_binomial_tails(first_only: int, second_only: int) -> None:
    total = first_only + second_only
    tail = sum(math.comb(total, k) for k in range(min(first_only, second_only) + 1)) / 2**total
    assert mcnemar_exact(first_only, second_only) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar_exact(second_only, first_only) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_mcnemar_p_value_is_one_without_discordant_images() -> None:
    assert mcnemar_exact(0, 0) == 1.0
    with pytest.raises(ValueError, match="first_only"):
        mcnemar_exact(-1, 3)


def test_discordant_images_are_counted_both_ways() -> None:
    assert discordant(*correct_pairs(500, 17, 5)) == (17, 5)
    with pytest.raises(ValueError, match="booleans"):
        discordant([1, 0], [1, 1])
    with pytest.raises(ValueError, match=r"one shape \(N,\)"):
        discordant([True], [True, False])
    with pytest.raises(ValueError, match=r"one shape \(N,\)"):
        discordant(np.zeros(0, bool), np.zeros(0, bool))


@pytest.mark.parametrize("method", ["percentile", "bca"])
@pytest.mark.parametrize(("total", "first_only", "second_only"), [(400, 40, 18), (2000, 12, 30), (150, 9, 9)])
def test_interval_equals_that_of_scipy(method: str, total: int, first_only: int, second_only: int) -> None:
    first, second = correct_pairs(total, first_only, second_only)
    found = paired_bootstrap(first, second, method=method, resamples=20_000)  # type: ignore[arg-type]
    expected = stats.bootstrap(
        (first.astype(float), second.astype(float)),
        lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
        paired=True,
        method={"bca": "BCa"}.get(method, method),
        n_resamples=9999,
        batch=500,
        rng=np.random.default_rng(1),
    ).confidence_interval
    np.testing.assert_allclose(found, (expected.low, expected.high), atol=1.5 / total + 0.001)


def test_interval_is_deterministic_and_wider_at_a_higher_level() -> None:
    first, second = correct_pairs(1000, 30, 12)
    low, high = paired_bootstrap(first, second)
    assert paired_bootstrap(first, second) == (low, high)
    wide = paired_bootstrap(first, second, level=0.99)
    assert wide[0] < low < 0.018 < high < wide[1]
    swapped = paired_bootstrap(second, first)
    np.testing.assert_allclose(swapped, (-high, -low), atol=0.0015)


def test_interval_is_the_difference_if_all_images_have_one_outcome() -> None:
    same = np.array([True, False, True])
    assert paired_bootstrap(same, same) == (0.0, 0.0)
    assert paired_bootstrap([True] * 4, [False] * 4) == (1.0, 1.0)
    assert paired_bootstrap([False] * 4, [True] * 4) == (-1.0, -1.0)


def test_interval_has_its_nominal_coverage_with_few_discordant_images() -> None:
    generator = np.random.default_rng(4)
    shares = np.array([0.04, 0.01, 0.95])
    covered = 0
    for _ in range(400):
        first_only, second_only, _ = generator.multinomial(200, shares)
        low, high = paired_bootstrap(*correct_pairs(200, int(first_only), int(second_only)), resamples=1000)
        covered += low - 1e-9 <= 0.03 <= high + 1e-9
    assert 0.92 <= covered / 400 <= 0.985  # 95 % within three standard errors


@pytest.mark.parametrize("arguments", [{"resamples": 10}, {"level": 1.0}, {"method": "basic"}])
def test_invalid_arguments_are_rejected(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        paired_bootstrap([True, False], [False, True], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("p_values", [[0.01, 0.04, 0.03], [0.5], [0.2, 0.001, 0.9, 0.04, 0.04], [1.0, 1.0], []])
def test_holm_equals_the_closed_test_by_bonferroni(p_values: list[float]) -> None:
    """A hypothesis is rejected if Bonferroni rejects every set of hypotheses that contains it."""
    indices = range(len(p_values))
    closed = [
        max(
            min(1.0, size * min(p_values[i] for i in subset))
            for size in range(1, len(p_values) + 1)
            for subset in combinations(indices, size)
            if index in subset
        )
        for index in indices
    ]
    assert holm(p_values) == pytest.approx(closed)


def test_holm_rejects_values_that_are_no_probabilities() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        holm([0.1, float("nan")])
