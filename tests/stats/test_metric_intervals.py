from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imgrec.metrics import classification_scores
from imgrec.stats.metric_intervals import metric_intervals


def random_logits(count: int, seed: int, classes: int = 6) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    targets = generator.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = generator.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), targets] += 1.5
    return logits, targets


def test_intervals_equal_those_of_a_bootstrap_over_images() -> None:
    logits, targets = random_logits(400, 0)
    found = metric_intervals(logits, targets)
    assert list(found) == ["acc", "acc_top5", "precision_macro", "recall_macro", "f1_macro", "nll", "auroc"]
    generator = np.random.default_rng(1)
    resampled: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(400):
        within = [np.flatnonzero(targets == c) for c in range(6)]
        rows = np.concatenate([generator.choice(each, len(each)) for each in within])
        scores = classification_scores(logits[rows], targets[rows])
        for name in resampled:
            resampled[name].append(scores[name])
    for name in ("precision_macro", "recall_macro", "f1_macro", "auroc"):
        low, high = np.quantile(resampled[name], [0.025, 0.975])
        width = high - low
        assert list(found[name]) == pytest.approx([low, high], abs=0.12 * width), name
    assert metric_intervals(logits, targets) == found


def test_auroc_of_two_classes_has_the_interval_of_delong() -> None:
    logits, targets = random_logits(150, 3, classes=2)
    scores = logits[:, 1].astype(float) - logits[:, 0]
    positives, negatives = scores[targets == 1], scores[targets == 0]
    kernel = (positives[:, None] > negatives) + 0.5 * (positives[:, None] == negatives)
    variance = kernel.mean(1).var() / len(positives) + kernel.mean(0).var() / len(negatives)
    area = kernel.mean()
    low, high = metric_intervals(logits, targets)["auroc"]
    centre = (np.log(low / (1 - low)) + np.log(high / (1 - high))) / 2
    half = (np.log(high / (1 - high)) - np.log(low / (1 - low))) / 2
    assert centre == pytest.approx(np.log(area / (1 - area)), abs=1e-9)
    assert half == pytest.approx(1.959964 * np.sqrt(variance) / (area * (1 - area)), rel=1e-6)


def test_undetermined_and_non_finite_metrics_have_no_interval() -> None:
    perfect = metric_intervals(10 * np.eye(3)[[0, 1, 2, 0]], [0, 1, 2, 0])
    assert list(perfect) == ["acc"]
    assert list(metric_intervals([[1.0, 0.0]], [0])) == ["acc"]
    assert metric_intervals(np.zeros((0, 2)), np.zeros(0, dtype=int)) == {}
    broken = metric_intervals([[np.nan, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 0, 1, 1])
    assert {"nll", "auroc", "ece"} & set(broken) == set()
    with pytest.raises(ValueError, match="level"):
        metric_intervals([[1.0, 0.0]], [0], level=1.0)
