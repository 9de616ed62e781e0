from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from imgrec.metrics.probabilities import softmax
from imgrec.metrics.roc import DRAWN_POINTS, roc_curves


def test_roc_areas_are_sklearns_and_thinning_leaves_them() -> None:
    generator = np.random.default_rng(3)
    targets = generator.integers(0, 4, 5000)
    logits = generator.normal(size=(5000, 4))
    logits[np.arange(5000), targets] += 0.7
    probabilities = softmax(logits)
    curves = roc_curves(probabilities, targets)
    for index, curve in curves.by_class.items():
        assert curve.auc == pytest.approx(metrics.roc_auc_score(targets == index, probabilities[:, index]), abs=1e-12)
        assert len(curve.fpr) <= DRAWN_POINTS
        assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
        assert (np.diff(curve.fpr) >= 0).all()
        assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(curve.auc, abs=2e-3)
    assert curves.macro is not None
    assert curves.macro.auc == pytest.approx(
        metrics.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro"), abs=1e-12
    )
    assert np.trapezoid(curves.macro.tpr, curves.macro.fpr) == pytest.approx(curves.macro.auc, abs=2e-3)


def test_classes_without_a_roc_curve_are_named() -> None:
    curves = roc_curves([[0.6, 0.2, 0.2], [0.2, 0.6, 0.2]], [0, 1])
    assert curves.absent == (2,)
    assert sorted(curves.by_class) == [0, 1]
    alone = roc_curves([[0.6, 0.4], [0.4, 0.6]], [0, 0])
    assert alone.macro is None
    assert alone.absent == (0, 1)
