from __future__ import annotations

import numpy as np
import pytest

from imgrec.stats.accuracy_drop import accuracy_drop, min_images_for_drop


def test_drop_in_points_and_its_interval() -> None:
    before = np.array([True] * 900 + [False] * 100)
    after = before.copy()
    after[:30] = False
    after[900:910] = True
    found = accuracy_drop(before, after)
    assert (found.before, found.after, found.drop) == (90.0, 88.0, 2.0)
    # 30 against 10 of 1000: the standard error of the difference is sqrt(30 + 10 - 20^2 / 1000) / 1000
    half = 1.96 * np.sqrt(39.6) / 10
    assert found.low == pytest.approx(2.0 - half, abs=0.15)
    assert found.high == pytest.approx(2.0 + half, abs=0.15)
    assert "2.00 points lost on 1000 images, 90.00 to 88.00 %" in str(found)


def test_gain_is_a_negative_drop() -> None:
    assert accuracy_drop([False, True], [True, True]).drop == -50.0


@pytest.mark.parametrize(("points", "level"), [(0.5, 0.95), (1.0, 0.99), (5.0, 0.9)])
def test_min_images_for_drop_detects_the_drop_with_the_given_probability(points: float, level: float) -> None:
    count = min_images_for_drop(points, level)
    missed = (1 - points / 100) ** np.array([count - 1, count])
    assert missed[0] > 1 - level >= missed[1]
