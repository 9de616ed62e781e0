from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics

from imgrec.reports.report import write_report
from imgrec.runs.folder import RunFolder
from imgrec.runs.metrics_csv import MetricsLog
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary, write_json
from tests.html_page import Page


@pytest.fixture(scope="module")
def page(finished: RunFolder, images: Callable[[list[str]], list[NDArray[np.uint8]]]) -> Page:
    return Page(write_report(finished, images))


def test_metrics_equal_those_of_sklearn(page: Page, finished: RunFolder) -> None:
    predictions = finished.predictions("test")
    expected = {
        "acc": metrics.accuracy_score(predictions.targets, predictions.predicted),
        "acc_top5": metrics.top_k_accuracy_score(predictions.targets, predictions.logits, k=5),
        "f1_macro": metrics.f1_score(predictions.targets, predictions.predicted, average="macro"),
        "auroc": metrics.roc_auc_score(predictions.targets, predictions.probabilities, multi_class="ovr"),
        "nll": metrics.log_loss(predictions.targets, predictions.probabilities),
    }
    for name, value in expected.items():
        assert page.values(name, "div") == [pytest.approx(value, rel=1e-9)], name
    assert f"{100 * expected['acc']:.2f} %" in page.text
    assert re.search(r"95 % interval \d\d\.\d\d to \d\d\.\d\d %, 341 of 360 images", page.text)
    validation = finished.predictions("val")
    assert page.values("acc", "td") == [predictions.accuracy, validation.accuracy]


def test_per_class_table_equals_that_of_sklearn(page: Page, finished: RunFolder) -> None:
    predictions = finished.predictions("test")
    precision, recall, f1, support = metrics.precision_recall_fscore_support(predictions.targets, predictions.predicted)
    np.testing.assert_allclose(page.values("precision", "td"), precision)
    np.testing.assert_allclose(page.values("recall", "td"), recall)
    np.testing.assert_allclose(page.values("f1", "td"), f1)
    np.testing.assert_allclose(page.values("support", "td"), support)
    areas = [metrics.roc_auc_score(predictions.targets == c, predictions.probabilities[:, c]) for c in range(10)]
    np.testing.assert_allclose(page.values("auroc", "td")[2:], areas)  # after the two rows of the splits


def test_confusion_matrix_equals_that_of_sklearn(page: Page, finished: RunFolder) -> None:
    predictions = finished.predictions("test")
    matrix = re.search(r'<table class="matrix".*?</table>', page.source, re.DOTALL)
    assert matrix is not None
    cells = re.findall(r"<td(?: [^>]*)?>(\d+|·)</td>", matrix.group())
    shown = np.array([0 if cell == "·" else int(cell) for cell in cells]).reshape(10, 10)
    np.testing.assert_array_equal(shown, metrics.confusion_matrix(predictions.targets, predictions.predicted))


def test_page_is_self_contained_and_small(page: Page, finished: RunFolder) -> None:
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
    assert "@import" not in page.source
    assert not re.search(r"url\((?!#)", page.source)
    assert set(re.findall(r"https?://[^\"'\s<]+", page.source)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert len(page.source) < 3_000_000
    assert finished.report.stat().st_size == len(page.source.encode())


def test_ids_are_unique_and_references_resolve(page: Page) -> None:
    ids = [a["id"] for _, a in page.elements if a.get("id")]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', page.source)) <= set(ids)


def test_page_contains_curves_best_epoch_and_config(page: Page, finished: RunFolder) -> None:
    for title in ("Loss", "Accuracy", "Learning rate", "ROC, one-vs-rest", "Reliability"):
        assert title in page.text
    assert page.text.count(f"best: epoch {finished.summary['best_epoch'] + 1}") == 3  # two legends and the tile
    assert len([tag for tag, _ in page.elements if tag == "svg"]) == 5
    assert "class_path: imgrec.tasks.ClassificationTask" in page.text
    assert '"data_fingerprint": "4f1c02ab"' in page.text
    assert "train 1,197, val 240, test 360" in page.text
    assert "digit/<none>: truncated" in page.text
    assert "1 min 14 s" in page.text


def test_errors_are_sorted_by_confidence_with_their_images(page: Page, finished: RunFolder) -> None:
    predictions = finished.predictions("test")
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    order = wrong[np.argsort(-predictions.probabilities[wrong].max(axis=1), kind="stable")]
    shown = [a for tag, a in page.elements if tag == "img"]
    assert [a["alt"] for a in shown] == [predictions.ids[i] for i in order]
    assert all((a["src"] or "").startswith("data:image/png;base64,") and a["class"] == "tiny" for a in shown)
    first = order[0]
    names = [predictions.class_names[k] for k in (predictions.targets[first], predictions.predicted[first])]
    assert f"{names[0]} → {names[1]} ({100 * predictions.probabilities[first].max():.1f} %)" in page.text


def test_page_is_deterministic(page: Page, finished: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / finished.path.name
    shutil.copytree(finished.path, copy)
    assert write_report(RunFolder(copy)).read_text() == write_report(RunFolder(copy)).read_text()


def test_page_of_a_run_without_results(run: RunFolder) -> None:
    page = Page(write_report(run))
    assert page.open == []
    assert "unfinished" in page.text
    assert "The run has no predictions" in page.text
    assert "metrics.csv contains no loss" in page.text


def test_without_predictions_metrics_are_read_from_the_summary(run: RunFolder) -> None:
    update_summary(run, {"val": {"acc": 0.875, "ece": None}, "status": "interrupted"})
    page = Page(write_report(run))
    assert page.values("acc", "div") == [0.875]
    assert "no predictions: no interval" in page.text
    assert "Read from the summary, because there are no predictions: validation." in page.text
    assert "interrupted" in page.text


def test_text_from_data_is_escaped(run: RunFolder) -> None:
    names = ["<script>alert(1)</script>", "a & b", "$x_1$", '"quoted"', "_hidden", "six"]
    logits = np.eye(6)[[1, 0, 2, 3, 4, 5]] * 3
    predictions = Predictions([f"<b>{i}</b>.png" for i in range(6)], range(6), logits, names)
    write_predictions(run.predictions_file("val"), predictions)
    (run.path / "config.yaml").write_text("note: </pre><script>alert(2)</script>\n")
    with MetricsLog(run.metrics_file) as log:
        log.append(0, 0, {"lr-<i>$x$": 0.1, "train/loss": 1.0})
    page = Page(write_report(RunFolder(run.path)))
    assert len([tag for tag, _ in page.elements if tag == "script"]) == 1  # the script that sorts tables
    assert not {tag for tag, _ in page.elements} & {"b", "script>alert"}
    for name in [*names, "<b>0</b>.png", "</pre><script>alert(2)</script>", "lr-<i>$x$"]:
        assert name in page.text
    assert "The images were not available" in page.text


def test_non_finite_logits_count_as_incorrect_with_a_warning(run: RunFolder) -> None:
    logits = np.array([[2.0, 0.0], [np.nan, 0.0], [2.0, 0.0]])
    write_predictions(run.predictions_file("test"), Predictions(["a", "b", "c"], [0, 0, 1], logits, ["x", "y"]))
    page = Page(write_report(run))
    assert "The logits of 1 of 3 test images are NaN or infinite" in page.text
    assert page.values("acc", "div") == [pytest.approx(1 / 3)]
    write_predictions(run.predictions_file("test"), Predictions(["a"], [0], [[np.nan, 0]], ["x", "y"]))
    page = Page(write_report(run))
    assert "The logits of 1 of 1 test images" in page.text
    assert "The run has no predictions" not in page.text.split("Scores")[0]


def test_matrix_of_many_classes_is_an_image(run: RunFolder) -> None:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 58, 900)
    logits = generator.normal(size=(900, 60)) + 3 * np.eye(60)[targets]
    logits[targets == 7, 8] += 10
    names = [f"class {i}" for i in range(60)]
    write_predictions(run.predictions_file("test"), Predictions(map(str, range(900)), targets, logits, names))
    requested: list[str] = []

    def images(ids: list[str]) -> list[NDArray[np.uint8] | None]:
        requested.extend(ids)
        return [None, *(np.full((300, 200, 3), 90, np.uint8) for _ in ids[1:])]

    page = Page(write_report(run, images))
    shown = [a for tag, a in page.elements if tag == "img"]
    assert shown[0]["class"] == "matrix-image"
    assert len(requested) == len(shown) == 21  # the matrix, and all requested images except one
    assert all("class" not in a and (a["src"] or "").startswith("data:image/jpeg") for a in shown[1:])
    assert "no image" in page.text
    pairs = re.search(r"Most confused.*?<tbody><tr><td>(.*?)</td><td class=\"text\">(.*?)</td>", page.source, re.DOTALL)
    assert pairs is not None
    assert pairs.groups() == ("class 7", "class 8")
    assert (
        "Classes without a ROC curve, because no image or every image belongs to them: class 58, class 59." in page.text
    )
    assert len(page.source) < 1_000_000


def test_perfect_run_of_one_epoch(run: RunFolder) -> None:
    with MetricsLog(run.metrics_file) as log:
        log.append(3, 0, {"val/acc": 1.0, "val/loss": 0.0, "train/loss": float("nan"), "lr-SGD": 0.0})
    write_predictions(run.predictions_file("test"), Predictions(["a", "b"], [0, 1], np.eye(2) * 5, ["x", "y"]))
    update_summary(run, {"best_epoch": 0})
    page = Page(write_report(run))
    assert page.text.count("All images were classified correctly.") == 2
    assert len([tag for tag, _ in page.elements if tag == "svg"]) == 5


def test_image_loader_must_return_an_image_per_id(finished: RunFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(finished.path, copy)
    with pytest.raises(ValueError, match="expected 19 images, got 0"):
        write_report(RunFolder(copy), lambda ids: [])


def test_machine_section_shows_throughput_and_energy(run: RunFolder) -> None:
    page = Page(write_report(run))
    assert "Images per second" not in page.text
    write_json(run.path / "environment.json", {"hardware": {"energy": "not measured (no counter)"}})
    with MetricsLog(run.metrics_file) as log:
        for epoch, rate in enumerate((100.0, 1234.0, 1300.0)):
            log.append(epoch, epoch, {"system/images_per_second": rate, "system/data_wait": 0.125 * epoch})
    text = Page(write_report(RunFolder(run.path))).text
    assert "1,234 in training, median of the epochs" in text
    assert "12.5 % of the training time" in text
    assert "not measured (no counter)" in text
    with MetricsLog(run.metrics_file) as log:
        for epoch in (3, 4):
            log.append(epoch, epoch, {"system/energy_joules": 600.5})
    text = Page(write_report(RunFolder(run.path))).text
    assert "1,201 J in all epochs" in text
    assert "(no counter)" not in text.partition("Energy")[2].partition("Environment")[0]


def test_custom_metric_and_best_epoch_are_shown(run: RunFolder) -> None:
    predictions = Predictions(["a", "b"], [0, 1], [[2.0, 0.0], [2.0, 0.0]], ["x", "y"])
    write_predictions(run.predictions_file("test"), predictions)
    update_summary(run, {"test": {"acc": 0.9, "mine": 0.125}, "epochs": 20, "best_epoch": 4})
    page = Page(write_report(run))
    assert page.values("mine", "td") == [0.125]
    assert page.values("mine", "div") == [0.125]
    assert page.values("acc", "div") == [0.5]  # computed from the predictions, not read from the summary
    assert "best: epoch 5 of 20 (best_epoch: 4)" in page.text
