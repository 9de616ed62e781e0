from __future__ import annotations

import math

import pytest

from imgrec.stats.intervals import wilson_interval


@pytest.mark.parametrize(
    ("correct", "total", "level", "low", "high"),
    [
        # Newcombe, 1998, Statistics in Medicine 17:857-872, table I, method 3
        (81, 263, 0.95, 0.2553, 0.3662),
        (15, 148, 0.95, 0.0624, 0.1605),
        (0, 20, 0.95, 0.0, 0.1611),
        (1, 29, 0.95, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_intervals(
    correct: int, total: int, level: float, low: float, high: float
) -> None:
    assert wilson_interval(correct, total, level) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("correct", "total", "level", "z"), [(349, 360, 0.99, 2.5758293), (5, 7, 0.5, 0.6744898), (1, 1000, 0.9, 1.6448536)]
)
def test_wilson_interval_ends_at_the_limits_of_the_score_test(correct: int, total: int, level: float, z: float) -> None:
    for end in wilson_interval(correct, total, level):
        assert abs(correct / total - end) == pytest.approx(z * math.sqrt(end * (1 - end) / total), rel=1e-6)


def test_wilson_interval_is_exact_for_no_and_all_correct() -> None:
    assert wilson_interval(0, 5)[0] == 0.0
    assert wilson_interval(5, 5)[1] == 1.0


@pytest.mark.parametrize(("correct", "total", "level"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_interval_rejects_invalid_counts_and_levels(correct: int, total: int, level: float) -> None:
    with pytest.raises(ValueError, match="expected"):
        wilson_interval(correct, total, level)
