from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from imgrec.metrics.classification import classification_scores, top_k_accuracy
from imgrec.metrics.per_image import per_image
from imgrec.metrics.probabilities import softmax


def test_scores_are_sklearns(drawn: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    logits, targets = drawn
    probabilities, predicted = softmax(logits), logits.argmax(axis=1)
    scores = classification_scores(logits, targets)
    assert scores["acc"] == metrics.accuracy_score(targets, predicted)
    assert scores["acc_top5"] == metrics.top_k_accuracy_score(targets, logits, k=5)
    assert scores["precision_macro"] == pytest.approx(metrics.precision_score(targets, predicted, average="macro"))
    assert scores["recall_macro"] == pytest.approx(metrics.recall_score(targets, predicted, average="macro"))
    assert scores["f1_macro"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro"))
    assert scores["auroc"] == pytest.approx(metrics.roc_auc_score(targets, probabilities, multi_class="ovr"))
    assert scores["nll"] == pytest.approx(metrics.log_loss(targets, probabilities))


def test_top_k_of_equal_logits_follows_the_class_order() -> None:
    logits = np.zeros((3, 3))
    rank = per_image(logits, [0, 1, 2]).rank
    assert top_k_accuracy(rank, 3, k=1) == float((logits.argmax(axis=1) == [0, 1, 2]).mean())
    assert top_k_accuracy(rank, 3, k=2) == pytest.approx(2 / 3)
    assert top_k_accuracy(rank, 3, k=3) is None


def test_five_classes_have_no_top5_and_diverged_logits_count_as_wrong() -> None:
    assert "acc_top5" not in classification_scores(np.eye(5), range(5))
    found = classification_scores([[float("nan"), 0.0], [1.0, 0.0]], [0, 0])
    assert (found["acc"], found["recall_macro"]) == (0.5, 0.5)
    assert np.isnan(found["nll"])
    assert classification_scores(np.zeros((0, 3)), np.zeros(0, dtype=int)) == {}
    with pytest.raises(ValueError, match="3 classes"):
        classification_scores(np.zeros((1, 3)), [3])
