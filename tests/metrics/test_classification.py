"""Metrics of an epoch, compared with scikit-learn, NumPy and the metrics of stored predictions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn import metrics as sk
from torch import Tensor

from imgrec.metrics import classification, classification_scores, per_image
from imgrec.metrics.calibration import CALIBRATION_BINS
from imgrec.tasks.epoch_metrics import classification_metrics

NAMES = ["acc", "acc_top5", "precision_macro", "recall_macro", "f1_macro", "auroc", "ece", "nll"]


def draw(samples: int, classes: int, seed: int = 0, spread: float = 1.5) -> tuple[Tensor, Tensor]:
    """Return logits and targets. Every class occurs if there are enough samples."""
    generator = np.random.default_rng(seed)
    targets = generator.permutation(np.arange(samples) % classes)
    logits = generator.normal(size=(samples, classes)).astype(np.float32)
    logits[np.arange(samples), targets] += spread
    return torch.from_numpy(logits), torch.from_numpy(targets.astype(np.int64))


def softmax(logits: Tensor) -> NDArray[np.float64]:
    values = logits.double().numpy()
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    total = np.sort(powers, axis=1).sum(axis=1, keepdims=True)  # the same logits in another order: the same sum
    found: NDArray[np.float64] = powers / total
    return found


def calibration_error(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Compute the difference of mean confidence and accuracy per bin, weighted by the fraction of the samples."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    total = 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return float(total)


@pytest.mark.parametrize(("samples", "classes"), [(700, 7), (300, 2), (1200, 10), (60, 30)])
def test_the_figures_are_scikit_learns(samples: int, classes: int) -> None:
    logits, targets = draw(samples, classes)
    probabilities, labels, predicted = softmax(logits), targets.numpy(), logits.argmax(1).numpy()
    found = classification_metrics(logits, targets)
    assert list(found) == [name for name in NAMES if name != "acc_top5" or classes > 5]
    assert found["acc"] == sk.accuracy_score(labels, predicted)
    if classes > 5:
        assert found["acc_top5"] == sk.top_k_accuracy_score(labels, probabilities, k=5)
    macro = {"average": "macro", "zero_division": 0.0}
    assert found["precision_macro"] == pytest.approx(sk.precision_score(labels, predicted, **macro), abs=1e-6)
    assert found["recall_macro"] == pytest.approx(sk.recall_score(labels, predicted, **macro), abs=1e-6)
    assert found["f1_macro"] == pytest.approx(sk.f1_score(labels, predicted, **macro), abs=1e-6)
    scores = probabilities[:, 1] if classes == 2 else probabilities
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-6)
    assert found["nll"] == pytest.approx(sk.log_loss(labels, probabilities), abs=1e-9)
    assert found["ece"] == pytest.approx(calibration_error(probabilities, labels), abs=1e-6)
    assert all(type(value) is float for value in found.values())


def test_top5_of_equal_logits_takes_the_lower_class_index_in_both_forms() -> None:
    logits, targets = torch.zeros(12, 12), torch.arange(12)
    logits[6:, 7] = 1.0  # for these, class 7 leads, and the classes 0 to 3 follow
    expected = (5 + 1) / 12  # classes 0 to 4 of the first six, class 7 of the others
    assert classification_metrics(logits, targets)["acc_top5"] == pytest.approx(expected, abs=1e-12)
    assert classification_scores(logits.numpy(), targets.numpy())["acc_top5"] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("classes", [2, 6, 9])
@pytest.mark.parametrize("kind", ["ties", "absent", "one image", "diverged"])
def test_both_forms_are_equal_and_are_those_of_a_plain_loop(classes: int, kind: str) -> None:
    generator = np.random.default_rng(classes)
    values = generator.integers(0, 3, (60, classes)).astype(np.float32)  # three values: many ties
    labels = generator.integers(0, classes, 60)
    if kind == "absent":
        values, labels = values[labels != 1], labels[labels != 1]
    if kind == "one image":
        values, labels = values[:1], labels[:1]
    if kind == "diverged":
        values[3, 1] = np.nan
    found = classification_metrics(torch.from_numpy(values), torch.from_numpy(labels))
    again = classification_scores(values, labels)
    assert found.keys() == again.keys()
    assert all(found[name] == again[name] or math.isnan(found[name]) for name in found)
    whole = np.isfinite(values).all(axis=1)
    order = np.argsort(-values, axis=1, kind="stable")  # of equal logits the lower index first
    ranks = np.array([row.tolist().index(label) for row, label in zip(order, labels, strict=True)])
    assert found["acc"] == pytest.approx(((ranks == 0) & whole).mean(), abs=1e-12)
    if classes > 5:
        assert found["acc_top5"] == pytest.approx(((ranks < 5) & whole).mean(), abs=1e-12)
    predicted = np.where(whole, order[:, 0], -1)
    shown = sorted({*labels.tolist(), *predicted[whole].tolist()})
    macro = {"average": "macro", "labels": shown, "zero_division": 0.0}
    assert found["f1_macro"] == pytest.approx(sk.f1_score(labels, predicted, **macro), abs=1e-12)
    assert found["recall_macro"] == pytest.approx(sk.recall_score(labels, predicted, **macro), abs=1e-12)
    if kind == "diverged":
        assert math.isnan(found["nll"])
        assert math.isnan(found["ece"])
        assert math.isnan(found["auroc"])
        return
    probabilities = softmax(torch.from_numpy(values))
    there = [c for c in range(classes) if 0 < (labels == c).sum() < len(labels)]
    areas = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in there]
    assert ("auroc" in found) == bool(areas)
    if areas:
        assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-12)
    assert found["ece"] == pytest.approx(calibration_error(probabilities, labels), abs=1e-9)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("absent", [0, 1])
def test_what_was_predicted_gives_the_same_figures_again(classes: int, absent: int) -> None:
    logits, targets = draw(200, classes, seed=classes, spread=1.0)
    if absent and classes > 2:
        kept = targets != 1
        logits, targets = logits[kept], targets[kept]
    found = classification_metrics(logits, targets)
    again = classification_scores(logits.numpy(), targets.numpy())
    assert found.keys() == again.keys()
    for name, value in found.items():
        assert value == pytest.approx(again[name], abs=1e-6), name


def test_a_class_without_an_image_counts_in_the_averages_as_in_scikit_learn() -> None:
    logits, targets = draw(600, 8)
    kept = (targets != 2) & (targets != 5)
    logits, targets = logits[kept], targets[kept]
    logits[:, 5] -= 100  # class 2 is predicted and not there, class 5 neither
    probabilities, labels, predicted = softmax(logits), targets.numpy(), logits.argmax(1).numpy()
    assert (predicted == 2).any()
    found = classification_metrics(logits, targets)
    scores = sk.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0.0)
    for name, score in zip(("precision_macro", "recall_macro", "f1_macro"), scores, strict=False):
        assert found[name] == pytest.approx(score, abs=1e-6)
    areas = [sk.roc_auc_score(labels == c, probabilities[:, c]) for c in (0, 1, 3, 4, 6, 7)]
    assert found["auroc"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_images_of_one_class_only_have_no_roc_curve() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 0.0]])
    found = classification_metrics(logits, torch.zeros(3, dtype=torch.int64))
    assert "auroc" not in found
    assert found["acc"] == pytest.approx(2 / 3)
    assert found["recall_macro"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["precision_macro"] == pytest.approx((1 + 0) / 2)


def test_no_image_gives_no_figure() -> None:
    assert classification_metrics(torch.empty(0, 4), torch.empty(0, dtype=torch.int64)) == {}


def test_one_image_is_enough() -> None:
    found = classification_metrics(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert found["acc"] == 1.0
    assert found["nll"] == pytest.approx(math.log(1 + math.exp(-1)))
    assert found["ece"] == pytest.approx(1 - 1 / (1 + math.exp(-1)), abs=1e-6)


def test_certainty_and_ignorance_are_calibrated() -> None:
    targets = torch.arange(10).repeat(10)
    sure = classification_metrics(torch.nn.functional.one_hot(targets, 10).float() * 1000, targets)
    assert (sure["acc"], sure["auroc"], sure["ece"], sure["nll"]) == (1.0, 1.0, 0.0, 0.0)
    none = classification_metrics(torch.zeros(100, 10), targets)
    assert none["ece"] == pytest.approx(0.0, abs=1e-6)
    assert none["nll"] == pytest.approx(math.log(10))
    assert none["auroc"] == pytest.approx(0.5)
    wrong = classification_metrics(torch.nn.functional.one_hot((targets + 1) % 10, 10).float() * 1000, targets)
    assert (wrong["acc"], wrong["ece"]) == (0.0, 1.0)
    assert wrong["nll"] == pytest.approx(1000.0)


def test_the_order_of_the_images_plays_no_part() -> None:
    logits, targets = draw(500, 8)
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))
    found, again = classification_metrics(logits, targets), classification_metrics(logits[order], targets[order])
    assert found == pytest.approx(again, abs=1e-6)


def test_half_precision_logits_count_like_the_same_numbers_in_float32() -> None:
    logits, targets = draw(300, 7)
    half = logits.bfloat16()
    assert classification_metrics(half, targets) == classification_metrics(half.float(), targets)


def test_there_are_fifteen_bins() -> None:
    assert CALIBRATION_BINS == 15


def test_a_network_that_gives_nan_has_no_calibration_error() -> None:
    logits, targets = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    logits[4, 1] = float("nan")
    found = classification_metrics(logits, targets)
    assert math.isnan(found["ece"])
    assert math.isnan(found["nll"])
    assert 0 <= found["acc"] <= 1


def test_figures_do_not_depend_on_how_many_rows_are_looked_at_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(50, 7, generator=generator), torch.randint(0, 7, (50,), generator=generator)
    whole = classification_metrics(logits, targets)
    monkeypatch.setattr(per_image, "_ROWS", 8)
    monkeypatch.setattr(classification, "_COLUMNS", 2)
    assert classification_metrics(logits, targets) == pytest.approx(whole, rel=1e-12)
