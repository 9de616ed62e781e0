from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from imgrec.errors import UserError
from imgrec.runs.lock import RunLock
from imgrec.runs.metrics_csv import MetricsLog
from imgrec.runs.summary import update_summary
from imgrec.runs.table import RunTable, run_table

StoredRun = Callable[..., Path]
ALMOST = [True] * 9 + [False]


@pytest.fixture
def root(tmp_path: Path, stored_run: StoredRun) -> Path:
    """Two recipes with two seeds each, and one run of another experiment that trains still."""
    for seed in (0, 1):
        stored_run(tmp_path, "pets/plain", seed, ALMOST, config={"loss": "cross_entropy"})
        stored_run(tmp_path, "pets/focal", seed, [True] * 10, config={"loss": {"name": "focal", "gamma": 2.0}})
    trains = stored_run(tmp_path, "new", 7, ALMOST, config={"loss": "cross_entropy"})
    (trains / "summary.json").write_text('{"status": "running"}')
    return tmp_path


def names(table: RunTable) -> list[str]:
    return [row["run"] for row in table.rows]


def test_a_row_holds_the_config_the_figures_and_the_cost(root: Path) -> None:
    table = run_table(root)
    row = next(row for row in table.rows if row["run"] == "pets/focal/seed-1")
    expected = {
        "status": "finished",
        "started": "2026-11-21T14:30:01+00:00",
        "seed_everything": 1,
        "loss/name": "focal",
        "loss/gamma": 2.0,
        "best/val/acc": 1.0,
        "test/acc": 1.0,
        "last/val/acc": 1.0,
        "last/train/loss": 0.5,
        "epochs": 3,
        "train_seconds": 13.5,
        "parameters": 1234,
    }
    assert {key: row[key] for key in expected} == expected
    size = sum(path.stat().st_size for path in (root / row["run"]).rglob("*") if path.is_file())
    assert row["size"] == size


def test_overview_shows_different_columns_only(root: Path) -> None:
    overview = run_table(root).overview()
    assert overview[:5] == ["run", "status", "seed_everything", "loss/name", "loss/gamma"]
    assert "best/val/acc" in overview
    assert "last/val/acc" in overview
    assert "experiment" not in overview
    focal = run_table(root).filtered("loss/name=focal").overview()
    assert "seed_everything" in focal
    assert "loss/name" not in focal


def test_run_in_training_has_best_and_last_values(root: Path) -> None:
    with MetricsLog(root / "new" / "seed-7" / "metrics.csv") as log:
        log.append(39, 3, {"val/acc": 0.25})
    lock = RunLock(root / "new" / "seed-7")
    row = next(row for row in run_table(root).rows if row["run"] == "new/seed-7")
    lock.release()
    assert (row["status"], row["best/val/acc"], row["last/val/acc"]) == ("running", 0.9, 0.25)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("test/acc>0.9", ["pets/focal/seed-0", "pets/focal/seed-1"]),
        ("test/acc >= 0.9", ["pets/focal/seed-0", "pets/focal/seed-1", "pets/plain/seed-0", "pets/plain/seed-1"]),
        ("train_seconds<13", ["pets/focal/seed-0", "pets/plain/seed-0"]),
        ("loss/name=focal", ["pets/focal/seed-0", "pets/focal/seed-1"]),
        ("loss/name=cross*", ["new/seed-7", "pets/plain/seed-0", "pets/plain/seed-1"]),
        ("status!=finished", ["new/seed-7"]),
        ("loss/gamma!=2", ["new/seed-7", "pets/plain/seed-0", "pets/plain/seed-1"]),
        ("seed_everything==1", ["pets/focal/seed-1", "pets/plain/seed-1"]),
        ("started>2026-11-21T14:30:05", ["new/seed-7"]),
        ("run=*/seed-0", ["pets/focal/seed-0", "pets/plain/seed-0"]),
    ],
)
def test_conditions(root: Path, condition: str, found: list[str]) -> None:
    assert names(run_table(root).filtered(condition)) == found


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("test/acc", "expected a condition such as"),
        ("tset/acc>0.9", 'no run has a column "tset/acc". Did you mean "test/acc"'),
        ("gamma=2", 'Did you mean "loss/gamma"'),
        ("test/acc>[1]", "expected a number or a date"),
    ],
)
def test_invalid_condition_is_rejected(root: Path, condition: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        run_table(root).filtered(condition)
    assert said in str(error.value)


def test_the_best_come_first_and_those_without_a_value_last(root: Path) -> None:
    update_summary(root / "pets" / "focal" / "seed-1", {"test": {"acc": 0.5, "nll": 0.1}})
    update_summary(root / "pets" / "focal" / "seed-0", {"test": {"nll": 0.2}})
    table = run_table(root)
    by_accuracy = names(table.sorted("test/acc"))
    assert by_accuracy[0] == "pets/focal/seed-0"
    assert by_accuracy[-2:] == ["pets/focal/seed-1", "new/seed-7"]
    assert names(table.sorted("test/acc", reverse=True))[0] == "pets/focal/seed-1"
    assert names(table.sorted("test/acc", reverse=True))[-1] == "new/seed-7"
    assert names(table.sorted("test/nll"))[:2] == ["pets/focal/seed-1", "pets/focal/seed-0"]
    assert names(table.sorted("train_seconds"))[0].endswith("seed-0")
    with pytest.raises(UserError, match="Did you mean"):
        table.sorted("test/ac")
    assert len(table.sorted("test/acc").limited(2).rows) == 2


def test_columns_are_selected_by_name_and_glob(root: Path) -> None:
    table = run_table(root)
    assert table.select_columns("run, loss/*,test/acc") == ["run", "loss/name", "loss/gamma", "test/acc"]
    with pytest.raises(UserError, match=r'--columns: no run has a column "lss/\*"'):
        table.select_columns("lss/*")


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("config.yaml", "a: [1", "config.yaml is not valid YAML"),
        ("summary.json", "{", "summary.json is not valid JSON"),
        ("metrics.csv", "step,epoch,val/acc\n1,0,x\n", "could not convert string to float"),
        ("environment.json", None, "environment.json"),
        ("config.yaml", None, "config.yaml"),
    ],
)
def test_a_broken_run_is_listed_as_such(root: Path, file: str, text: str | None, problem: str) -> None:
    path = root / "pets" / "plain" / "seed-0" / file
    path.unlink() if text is None else path.write_text(text)
    table = run_table(root)
    assert len(table.rows) == 5
    row = next(row for row in table.rows if row["run"] == "pets/plain/seed-0")
    assert row["status"] == "broken"
    assert problem in row["problem"]
    assert "problem" in table.overview()
    assert "seed_everything" in table.overview()
    assert len(table.filtered("status!=broken").rows) == 4


def test_other_folders_are_skipped(root: Path) -> None:
    (root / "pets" / "notes").mkdir()
    (root / "pets" / "notes" / "config.yaml").write_text("a: 1\n")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "environment.json").write_text("{}")
    assert len(run_table(root).rows) == 5
    assert names(run_table(root / "new" / "seed-7")) == ["seed-7"]
    assert run_table(root / "pets" / "notes").rows == ()
    with pytest.raises(UserError, match="not found"):
        run_table(root / "gone")


def test_the_last_values_of_a_long_log_are_read_from_its_end(root: Path) -> None:
    with MetricsLog(root / "new" / "seed-7" / "metrics.csv") as log:
        for step in range(40, 4040):
            log.append(step, 3, {"train/loss_step": 1 / step})
        log.append(4040, 4, {"val/acc": 0.75})
    row = next(row for row in run_table(root).rows if row["run"] == "new/seed-7")
    assert row["last/val/acc"] == 0.75
    assert row["last/train/loss_step"] == 1 / 4039
    assert row["best/val/acc"] == 0.9
