from __future__ import annotations

import math

import numpy as np
import pytest

from imgrec.metrics.probabilities import log_softmax, softmax


def test_softmax_is_exact_to_the_last_digits_and_survives_extremes() -> None:
    logits = np.random.default_rng(1).normal(scale=30, size=(20, 5))
    for row, given, logs in zip(logits, softmax(logits), log_softmax(logits), strict=True):
        total = math.fsum(math.exp(value) for value in row)
        np.testing.assert_allclose(given, [math.exp(value) / total for value in row], rtol=1e-12)
        np.testing.assert_allclose(logs, [value - math.log(total) for value in row], rtol=1e-12, atol=1e-12)
    assert softmax([[1e4, -1e4]]).tolist() == [[1.0, 0.0]]
    assert np.isnan(softmax([[float("nan"), 0.0]])).all()
    assert np.isnan(softmax([[float("inf"), 0.0]])).all()
    with pytest.raises(ValueError, match="at least one class"):
        softmax(np.empty((3, 0)))
