"""Parts of the W&B logger that need no W&B run: documented YAML, rows of the table, summary of a metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from imgrec import WandbLogger
from imgrec.engine.trainer import build_loggers
from imgrec.loggers.base import RunLogger
from imgrec.loggers.wandb.logger import best_of
from imgrec.loggers.wandb.media import select_rows
from imgrec.runs.predictions import Predictions


def test_documented_yaml_is_accepted() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text(encoding="utf-8")
    config = yaml.safe_load(page.partition("```yaml")[2].partition("```")[0])
    (logger,) = build_loggers(config["trainer"]["logger"])
    assert type(logger) is WandbLogger
    assert logger.name == "signs"
    arguments = {"project", "entity", "group", "job_type", "tags", "notes", "name", "mode"}
    assert arguments < config["trainer"]["logger"]["init_args"].keys()


def test_table_lists_errors_first_and_some_hits() -> None:
    targets = np.arange(40) % 2
    logits = np.zeros((40, 2))
    predicted = np.where(np.arange(40) < 30, 1 - targets, targets)  # 30 wrong, 10 right
    logits[np.arange(40), predicted] = 1 + np.arange(40) / 10
    predictions = Predictions([f"{i:02d}" for i in range(40)], targets, logits, ["a", "b"])
    assert select_rows(predictions, 8).tolist() == [29, 28, 27, 26, 25, 24, 30, 31]
    assert sorted(select_rows(predictions, 100).tolist()) == list(range(40))
    assert select_rows(predictions, 1).tolist() == [29]
    right = Predictions(predictions.ids, predicted, logits, ["a", "b"])
    assert select_rows(right, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("metric", "best"),
    [("val/acc", "max"), ("val/ece", "min"), ("test/acc", None), ("val/mine", None), ("train/loss", None)],
)
def test_best_of_metric(metric: str, best: str | None) -> None:
    assert best_of(metric) == best


def test_run_logger_methods_have_no_effect(tmp_path: Path) -> None:
    plain = RunLogger()
    plain.begin_run(tmp_path)
    plain.resume({})
    plain.close()
    assert list(tmp_path.iterdir()) == []
