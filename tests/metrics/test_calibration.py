from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from imgrec.metrics.calibration import reliability
from imgrec.metrics.probabilities import softmax


def test_ece_by_hand() -> None:
    probabilities = np.array([[0.95, 0.05], [0.85, 0.15], [0.35, 0.65], [0.62, 0.38]])
    targets = [0, 1, 1, 1]
    # of ten bins: 0.95 correct, 0.85 wrong, and in the bin (0.6, 0.7] 0.65 correct and 0.62 wrong
    expected = (0.05 * 1 + 0.85 * 1 + abs((0.65 + 0.62) / 2 - 0.5) * 2) / 4
    assert reliability(probabilities, targets, bins=10).expected_calibration_error == pytest.approx(expected, abs=1e-12)
    bins = reliability(probabilities, targets, bins=10)
    assert bins.count.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 1, 1]
    assert bins.accuracy[6] == 0.5
    assert np.isnan(bins.accuracy[0])


def test_ece_is_that_of_a_plain_loop(drawn: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    probabilities, targets = softmax(drawn[0]), drawn[1]
    total = 0.0
    for k in range(15):
        inside = [i for i, row in enumerate(probabilities) if k / 15 < max(row) <= (k + 1) / 15]
        if inside:
            right = sum(int(probabilities[i].argmax() == targets[i]) for i in inside)
            total += abs(right - sum(probabilities[i].max() for i in inside))
    assert reliability(probabilities, targets).expected_calibration_error == pytest.approx(
        total / len(targets), abs=1e-12
    )


def test_bins_hold_every_sample_also_on_their_edges() -> None:
    bins = reliability([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]], [0, 0, 0], bins=4)
    assert bins.count.tolist() == [0, 1, 1, 1]
    assert reliability([[1.0]], [0], bins=3).count.tolist() == [0, 0, 1]


def test_calibration_without_samples_is_nan() -> None:
    assert math.isnan(reliability(np.empty((0, 3)), np.empty(0)).expected_calibration_error)


@pytest.mark.parametrize(
    ("probabilities", "targets", "message"),
    [
        ([[2.0, -1.0]], [0], "were these logits"),
        ([[float("nan"), 0.5]], [0], "NaN"),
        ([[0.5, 0.5]], [2], "2 classes"),
        ([[0.5, 0.5]], [0, 1], "expected"),
        ([[0.5, 0.5]], [0.5], "class indices"),
    ],
)
def test_calibration_refuses_what_are_no_predictions(
    probabilities: list[list[float]], targets: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        reliability(probabilities, targets)
