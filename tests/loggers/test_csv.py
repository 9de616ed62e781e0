from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imgrec.callbacks import MetricsLogger
from imgrec.loggers.csv import shortest

Rows = Callable[[Path], list[dict[str, str]]]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_values_of_one_step_are_in_one_row(tmp_path: Path, unclocked: Rows) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"val/loss": 0.5, "epoch": 0}, step=4)
    logger.log_metrics({"train/loss": 0.25, "epoch": 0}, step=4)
    logger.log_metrics({"lr": 0.125}, step=5)
    logger.log_metrics({"val/loss": 0.25, "epoch": 1}, step=9)
    logger.finalize("success")
    assert unclocked(tmp_path / "metrics.csv") == [
        {"step": "4", "epoch": "0", "val/loss": "0.5", "train/loss": "0.25", "lr": ""},
        {"step": "5", "epoch": "0", "val/loss": "", "train/loss": "", "lr": "0.125"},
        {"step": "9", "epoch": "1", "val/loss": "0.25", "train/loss": "", "lr": ""},
    ]


def test_second_value_of_a_metric_at_one_step_has_its_row(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"val/loss": 1.0, "epoch": 0}, step=4)
    logger.log_metrics({"val/loss": 2.0, "epoch": 0}, step=4)
    logger.finalize("success")
    assert [row["val/loss"] for row in table(tmp_path)] == ["1.0", "2.0"]


def test_logging_continues_after_finalize(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.log_metrics({"val/loss": 1.0, "epoch": 0}, step=4)
    logger.finalize("success")
    logger.finalize("success")
    logger.log_metrics({"test/loss": 3.0, "epoch": 1}, step=5)
    logger.finalize("success")
    assert [(row["val/loss"], row["test/loss"]) for row in table(tmp_path)] == [("1.0", ""), ("", "3.0")]


def test_rows_contain_the_time_and_resumed_runs_continue_it(tmp_path: Path) -> None:
    for run in range(2):
        logger = MetricsLogger(tmp_path)
        for step in range(3):
            logger.log_metrics({"val/loss": 1.0}, step=3 * run + step)
        logger.finalize("success")
        if run == 0:  # as though the first run had taken long
            path = tmp_path / "metrics.csv"
            lines = path.read_text().splitlines()
            assert lines[0] == "step,epoch,val/loss,system/seconds"
            path.write_text("\n".join([*lines[:-1], lines[-1].rpartition(",")[0] + ",500.0"]) + "\n")
    seconds = [float(row["system/seconds"]) for row in table(tmp_path)]
    assert seconds == sorted(seconds)
    assert seconds[2] == 500
    assert all(500 <= each < 600 for each in seconds[3:])


def test_muted_logger_writes_nothing_and_flush_writes_the_row(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path)
    logger.muted = True
    logger.log_metrics({"val/loss": 1.0}, step=1)
    logger.finalize("success")
    assert list(tmp_path.iterdir()) == []
    logger.muted = False
    logger.log_metrics({"val/loss": 1.0}, step=1)
    logger.flush()
    assert len(table(tmp_path)) == 1


def test_logger_reports_its_folder(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path / "digits" / "20261121-143005")
    assert (logger.name, logger.version) == ("digits", "20261121-143005")
    assert logger.log_dir == logger.save_dir == str(tmp_path / "digits" / "20261121-143005")
    logger.log_hyperparams({"lr": 0.1})
    assert not (tmp_path / "digits").exists()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-8, 123456.789, 0.0, -2.5])
def test_float32_is_written_short_and_read_exactly(value: float) -> None:
    single = float(np.float32(value))
    assert np.float32(shortest(single)) == np.float32(value)
    assert len(repr(shortest(single))) <= len(repr(single))
    assert shortest(value) == value or np.float32(shortest(value)) == np.float32(value)
    assert shortest(1 + 2**-40) == 1 + 2**-40


def test_nonfinite_values_are_kept() -> None:
    assert shortest(float("inf")) == float("inf")
    assert np.isnan(shortest(float("nan")))
