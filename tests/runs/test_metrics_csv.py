from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from imgrec.errors import UserError
from imgrec.runs.metrics_csv import MetricsLog, read_metrics


def test_numbers_read_back_exactly(tmp_path: Path) -> None:
    values = [0.1, 1 / 3, 1e-300, math.pi * 1e20, float("inf"), float("-inf"), 5e-324]
    with MetricsLog(tmp_path / "metrics.csv") as log:
        for step, value in enumerate(values):
            log.append(step, 0, {"train/loss": value})
        log.append(9, 0, {"train/loss": float("nan"), "float32": np.float32(0.1)})
    found = read_metrics(tmp_path / "metrics.csv")
    assert found["train/loss"].values[:-1].tolist() == values
    assert math.isnan(found["train/loss"].values[-1])
    assert found["float32"].values.tolist() == [float(np.float32(0.1))]


def test_a_cell_is_blank_where_its_row_lacks_the_metric_and_new_names_widen_the_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with MetricsLog(path) as log:
        log.append(0, 0, {"lr": 0.5})
        log.append(1, 0, {"val/acc, odd": 1.0})
        log.append(2, 1, {"lr": 0.25, "val/acc, odd": 0.5})
    assert path.read_text() == 'step,epoch,lr,"val/acc, odd"\n0,0,0.5,\n1,0,,1.0\n2,1,0.25,0.5\n'
    found = read_metrics(path)
    assert found["val/acc, odd"].steps.tolist() == [1, 2]
    assert found["val/acc, odd"].epochs.tolist() == [0, 1]
    assert len(found["lr"]) == 2


def test_rows_are_readable_during_the_run(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.csv") as log:
        assert read_metrics(log.path) == {}
        log.append(0, 0, {"a": 1.0})
        assert read_metrics(log.path)["a"].values.tolist() == [1.0]


def test_row_with_known_names_is_appended(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.csv") as log:
        log.append(0, 0, {"a": 1.0, "b": 2.0})
        inode, size = log.path.stat().st_ino, log.path.stat().st_size
        log.append(1, 0, {"b": 2.0})
        assert (log.path.stat().st_ino, log.path.stat().st_size) == (inode, size + len("1,0,,2.0\n"))


def test_an_existing_file_is_continued_without_its_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with MetricsLog(path) as log:
        log.append(0, 0, {"a": 1.0})
    with path.open("a") as file:
        file.write("1,0,2.")  # killed here
    assert read_metrics(path)["a"].values.tolist() == [1.0]
    with MetricsLog(path) as log:
        log.append(1, 0, {"a": 2.5, "b": 3.0})
    found = read_metrics(path)
    assert found["a"].values.tolist() == [1.0, 2.5]
    assert found["b"].steps.tolist() == [1]


def test_a_resumed_run_writes_the_later_rows_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    with MetricsLog(path) as log:
        for step in range(6):
            log.append(step, step // 2, {"a": float(step)})
    with MetricsLog(path, last_step=3) as log:
        log.append(4, 2, {"a": 40.0})
    assert read_metrics(path)["a"].values.tolist() == [0, 1, 2, 3, 40]


def test_invalid_metric_names_are_rejected(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.csv")
    with pytest.raises(ValueError, match="'epoch'"):
        log.append(0, 0, {"epoch": 1.0})
    with pytest.raises(ValueError, match="one line"):
        log.append(0, 0, {"a\nb": 1.0})
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.append(0, 0, {"a": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,age\n", "expected a first line that begins with step,epoch"),
        ("step,epoch,a\n0,0,x\n", "line 2: could not convert"),
        ("step,epoch,a\n0,0,1.0\n1,0\n", "line 3: 2 cells under 3 names"),
        ("step,epoch,a\n,0,1.0\n", "line 2"),
    ],
)
def test_other_file_is_rejected_and_unchanged(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_metrics(path)
    with pytest.raises(UserError, match=message):
        MetricsLog(path)
    assert path.read_text() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="metrics not found"):
        read_metrics(tmp_path / "metrics.csv")
