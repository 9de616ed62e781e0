from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from imgrec.metrics.confusion import confusion_matrix, most_confused, per_class_table


def test_confusion_and_per_class_figures_are_sklearns(drawn: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    targets, predicted = drawn[1], drawn[0].argmax(axis=1)
    matrix = confusion_matrix(targets, predicted, 7)
    np.testing.assert_array_equal(matrix, metrics.confusion_matrix(targets, predicted))
    table = per_class_table(matrix)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(targets, predicted)
    np.testing.assert_allclose(table.precision, precision)
    np.testing.assert_allclose(table.recall, recall)
    np.testing.assert_allclose(table.f1, f1)
    np.testing.assert_array_equal(table.support, support)


def test_a_class_that_is_not_there_has_no_figures_and_does_not_count() -> None:
    # class 1 is only a target, class 2 is only predicted, class 3 is neither
    targets, predicted = [0, 0, 1], [0, 2, 0]
    table = per_class_table(confusion_matrix(targets, predicted, 4))
    assert np.isnan(table.recall).tolist() == [False, False, True, True]
    assert np.isnan(table.precision).tolist() == [False, True, False, True]
    assert np.isnan(table.f1).tolist() == [False, False, False, True]
    expected = metrics.precision_recall_fscore_support(targets, predicted, average="macro", zero_division=0)[:3]
    assert table.macro == pytest.approx(expected)


def test_most_confused_pairs_come_first_and_only_errors() -> None:
    assert most_confused([[5, 2, 0], [3, 9, 0], [0, 1, 7]]) == [(1, 0, 3), (0, 1, 2), (2, 1, 1)]
    assert most_confused([[5, 2, 0], [3, 9, 0], [0, 1, 7]], at_most=1) == [(1, 0, 3)]
    assert most_confused(np.eye(3, dtype=int)) == []


def test_confusion_refuses_a_class_that_is_none() -> None:
    with pytest.raises(ValueError, match="2 classes"):
        confusion_matrix([0, 2], [0, 0], 2)
