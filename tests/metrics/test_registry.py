"""METRICS: a registered metric and a metric of build_metrics appear in every file, table and decision."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from numpy.typing import NDArray

import imgrec
from imgrec import METRICS, BestCheckpoint, ClassificationTask, DataFacts, EarlyStopping, ImageDataModule, RunRecorder
from imgrec.compare.html import write_comparison
from imgrec.compare.text import group_columns, to_dict
from imgrec.errors import SpecError, UserError
from imgrec.loggers.wandb.logger import best_of
from imgrec.metrics.names import known_mode, mode_of, ordered, shown_in
from imgrec.metrics.per_image import per_image
from imgrec.reports.report import write_report
from imgrec.runs.folder import RunFolder
from imgrec.tasks.epoch_metrics import EpochMetrics

NETWORK = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}


def brier(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> float:
    """Compute the Brier score."""
    return float(((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(axis=1).mean())


@pytest.fixture
def registered() -> Iterator[str]:
    METRICS.register("brier", title="Brier score", higher_is_better=False)(brier)
    yield "brier"
    del METRICS._entries["brier"]


class Task(ClassificationTask):
    """A task with a torchmetrics metric and a function as further metrics."""

    def build_metrics(self, facts: DataFacts) -> Any:
        distance = torchmetrics.HammingDistance("multiclass", num_classes=facts.num_classes)
        zeros = {"distance": distance, "zeros": lambda logits, targets: (targets == 0).float().mean()}
        return [super().build_metrics(facts), zeros]


def train(root: Path, seed: int) -> tuple[RunFolder, EarlyStopping, BestCheckpoint]:
    pl.seed_everything(seed)
    data = ImageDataModule("digits", image_size=16, channels=1, num_workers=0)
    stopping, best = EarlyStopping("val/distance"), BestCheckpoint("val/distance")
    recorder = RunRecorder("mine", root)
    task = Task(NETWORK, normalize="half", schedule={"name": "plateau", "monitor": "val/brier"})
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=2,
        accelerator="cpu",
        logger=False,
        callbacks=[recorder, stopping, best],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=root,
    )
    trainer.fit(task, data)
    trainer.test(task, datamodule=data, verbose=False)
    assert recorder.folder is not None
    return RunFolder(recorder.folder), stopping, best


def test_registered_metrics_and_metrics_of_a_task_appear_everywhere(registered: str, tmp_path: Path) -> None:
    run, stopping, best = train(tmp_path, 0)
    assert (stopping.mode, best.mode) == ("min", "min")
    assert float(stopping.best_score) == pytest.approx(min(run.metrics()["val/distance"].values), abs=1e-6)
    test = run.summary["test"]
    predictions = run.predictions("test")
    assert test["brier"] == pytest.approx(brier(predictions.probabilities, predictions.targets), rel=1e-6)
    assert test["distance"] == pytest.approx(1 - test["acc"], abs=1e-6)
    assert run.summary["higher_is_better"] == {"distance": False}
    assert {"val/brier", "val/distance", "val/zeros", "test/brier", "test/distance"} <= run.metrics().keys()
    names = list(run.metrics())
    assert names.index("val/nll") < names.index("val/brier")
    page = write_report(run).read_text()
    for name in ("brier", "distance", "zeros"):
        assert page.count(f'data-name="{name}"') >= 2  # a tile and a cell of the scores
    assert "Brier score" in page

    train(tmp_path, 1)
    table = imgrec.run_table(tmp_path)
    assert {"test/brier", "test/distance", "test/zeros"} <= set(table.overview())
    for column in ("test/brier", "test/distance"):  # lower is better
        values = [row[column] for row in table.sorted(column).rows]
        assert values == sorted(values)
    comparison = imgrec.compare_runs([tmp_path])
    assert {"Brier score", "distance", "zeros"} <= set(group_columns(comparison.groups))
    assert {"brier", "distance", "zeros"} <= to_dict(comparison)["groups"][0].keys()
    assert "Brier score" in write_comparison(comparison, tmp_path / "compare.html").read_text()

    found = imgrec.evaluate_run(run, "digits", device="cpu", name="all")
    assert {"brier", "distance", "zeros"} <= found.metrics.keys()
    assert "Brier score" in (run.path / "evaluations" / "all" / "report.html").read_text()


def test_direction_title_and_order_follow_from_the_registry(registered: str) -> None:
    assert (mode_of("val/brier"), best_of("val/brier"), mode_of("val/acc")) == ("min", "min", "max")
    assert imgrec.EarlyStopping("val/brier").mode == BestCheckpoint("val/brier").mode == "min"
    assert known_mode("val/unknown") is None
    assert ordered(["unknown", "brier", "loss", "acc"]) == ["acc", "brier", "loss", "unknown"]
    assert shown_in("evaluations", ["brier", "precision_macro", "unknown"]) == ["brier", "unknown"]


def test_each_metric_states_its_properties_and_an_example() -> None:
    for metric in METRICS.in_order():
        assert metric.title != metric.name, metric.name
        assert metric.inputs
        assert ">>>" in METRICS.entry(metric.name).doc
        assert METRICS.properties_of(metric.name)["better"] in ("higher", "lower")


def test_a_metric_is_built_from_a_name_options_or_a_dotted_path() -> None:
    images = per_image([[2.0, 0.0], [1.0, 0.0]], [0, 1])
    assert METRICS.build({"name": "ece", "bins": 1}).value(images) != METRICS.build("ece").value(images)
    dotted = METRICS.build("tests.metrics.test_registry.brier")
    assert (dotted.name, dotted.higher_is_better) == ("brier", True)
    assert dotted.value(images) == pytest.approx(brier(images.probabilities(slice(None)), images.targets))
    with pytest.raises(SpecError, match='"binz"'):
        METRICS.build({"name": "ece", "binz": 1})
    with pytest.raises(ValueError, match="parameter named one of"):
        METRICS.register("nothing")(lambda values: 0.0)


def test_a_metric_that_requires_a_softmax_is_nan_without_one() -> None:
    images = per_image([[float("nan"), 0.0], [1.0, 0.0]], [0, 0])
    assert math.isnan(METRICS.build("tests.metrics.test_registry.brier").value(images) or 0.0)
    assert METRICS.build("acc").value(images) == 0.5


def test_epoch_metrics_accept_names_collections_and_functions() -> None:
    logits, targets = torch.tensor([[2.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    collection = torchmetrics.MetricCollection({"hit": torchmetrics.Accuracy("multiclass", num_classes=2)})
    metrics = EpochMetrics(["acc", collection, {"top": "acc", "two": lambda logits, targets: 2}])
    assert metrics(logits, targets) == {"acc": 0.5, "hit": 0.5, "top": 0.5, "two": 2.0}
    assert metrics(logits[:1], targets[:1])["hit"] == 1.0  # nothing is left of the last epoch
    assert metrics.directions == {"acc": True, "hit": True, "top": True}
    with pytest.raises(UserError, match="got int"):
        EpochMetrics(1)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r'"rows".*\(2,\)'):
        EpochMetrics({"rows": lambda logits, targets: logits[:, 0]})(logits, targets)
