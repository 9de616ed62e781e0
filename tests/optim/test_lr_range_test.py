"""The mathematics of the learning-rate range test, against curves whose answer is known."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest

from imgrec.errors import UserError
from imgrec.optim.lr_range_test import (
    RULES,
    Diverged,
    RangeTest,
    exponential_rates,
    smooth,
    steepest,
    tenth_of_minimum,
    valley,
)

RATES = exponential_rates(1e-6, 10.0, 141)


def logistic(middle: float, width: float = 0.5) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return losses that decrease from 2 to 1, fastest at the rate ``middle``."""
    return 1 + 1 / (1 + np.exp((np.log(RATES) - math.log(middle)) / width))


def test_the_rates_are_a_geometric_series_with_both_ends() -> None:
    assert RATES[0] == 1e-6
    assert math.isclose(RATES[-1], 10.0)
    ratios = np.diff(np.log(RATES))
    assert np.allclose(ratios, ratios[0])


def test_smoothing_equals_scipy_and_preserves_constants() -> None:
    from scipy.ndimage import gaussian_filter1d  # type: ignore[import-untyped]

    values = np.random.default_rng(0).normal(size=200)
    assert np.allclose(smooth(values, 3.0)[40:-40], gaussian_filter1d(values, 3.0, truncate=8)[40:-40], atol=1e-9)
    assert np.allclose(smooth(np.full(30, 2.5), 4.0), 2.5)


def test_smoothing_does_not_shift_curves() -> None:
    for middle in (1e-4, 1e-2):
        assert math.isclose(steepest(RATES, smooth(logistic(middle), 4.0)), middle, rel_tol=0.13)


@pytest.mark.parametrize("middle", [1e-4, 1e-3, 1e-2])
def test_steepest_rate_of_logistic_curve_is_its_middle(middle: float) -> None:
    assert math.isclose(steepest(RATES, logistic(middle)), middle, rel_tol=0.13)


def test_steepest_rate_is_before_minimum() -> None:
    curve = logistic(1e-3)
    bumps = np.where(np.asarray(RATES) > 0.1, 40.0 - 38.0 * (np.asarray(RATES) > 1.0), 0.0)
    curve = curve + bumps  # up by 40, then down by 38: a much steeper fall, but above the minimum
    assert math.isclose(steepest(RATES, curve), 1e-3, rel_tol=0.13)


def test_the_valley_is_found_by_trying_every_sequence() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        losses = rng.permutation(8).astype(float)
        longest = max(
            size
            for size in range(1, 9)
            for places in combinations(range(8), size)
            if all(losses[a] > losses[b] for a, b in pairwise(places))
        )
        ends = {
            (places[0], places[-1])
            for places in combinations(range(8), longest)
            if all(losses[a] > losses[b] for a, b in pairwise(places))
        }
        rates = exponential_rates(1.0, 128.0, 8)
        assert any(math.isclose(valley(rates, losses), math.sqrt(rates[a] * rates[b])) for a, b in ends)


def test_a_tenth_of_the_minimum() -> None:
    curve = np.abs(np.log10(RATES) + 2.0)
    assert math.isclose(tenth_of_minimum(RATES, curve), 1e-3, rel_tol=0.13)


def test_gradient_descent_on_a_parabola_is_advised_below_the_rate_at_which_it_diverges() -> None:
    """Curvature 4: a step multiplies the distance by 1 - 4 x rate, so that it grows from a rate of 0.5 on."""
    distance, losses, rule = 1.0, [], Diverged(4.0)
    for rate in RATES:
        losses.append(1.0 + 2 * distance**2)
        if rule.update(losses[-1]):
            break
        distance *= 1 - 4.0 * rate
    found = RangeTest(tuple(RATES[: len(losses)]), tuple(losses), True)
    assert 0.5 < found.rates[-1] < 10.0
    for name, rate in found.suggestions().items():
        assert 1e-4 < rate < 0.5, name


def test_divergence_is_running_mean_above_multiple_of_minimum() -> None:
    losses = [3.0, 1.0, 2.0, 5.0, 4.0, 9.0, 30.0]
    least, ends = math.inf, []
    for i in range(len(losses)):
        weights = [0.3 * 0.7 ** (i - j) for j in range(i + 1)]
        mean = sum(w * x for w, x in zip(weights, losses, strict=False)) / sum(weights)
        least = min(least, mean)
        ends.append(mean > 3.0 * least)
    rule = Diverged(3.0)
    assert [rule.update(loss) for loss in losses] == ends
    assert ends[-1]
    assert not ends[0]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_nan_loss_has_diverged(loss: float) -> None:
    assert Diverged(1e9).update(loss)


def test_noise_around_a_fall_moves_the_suggestions_little() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        losses = logistic(1e-3) + rng.normal(scale=0.05, size=len(RATES))
        found = RangeTest(tuple(RATES), tuple(losses), False).suggestions()
        assert abs(math.log10(found["steepest"]) + 3) < 0.5
        assert set(found) == set(RULES)


def test_noise_alone_is_no_fall() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        flat = RangeTest(tuple(RATES), tuple(2.3 + rng.normal(scale=0.1, size=len(RATES))), False)
        with pytest.raises(UserError, match=r"the loss did not decrease between the learning rates 1e-06 and 10"):
            flat.suggestions()


def test_too_few_steps_give_no_suggestion() -> None:
    with pytest.raises(UserError, match="expected at least 10 steps, got 3 before the loss diverged"):
        RangeTest((0.1, 1.0, 10.0), (2.0, 3.0, 4.0), True).suggestions()
