from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
StoredRun = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path, stored_run: StoredRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs in ``runs``, and a terminal that is wide enough for them."""
    monkeypatch.setenv("COLUMNS", "140")
    for seed, share in enumerate((7, 9, 8)):
        stored_run(tmp_path / "runs", "pets/plain", seed, [True] * share + [False] * (10 - share))
    return tmp_path / "runs"


def test_the_table_is_sorted_and_counted(cli: Cli, runs: Path) -> None:
    done = cli("runs", "--sort", "test/acc")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["run", "status", "seed"]
    assert [line.split()[0] for line in lines[1:4]] == ["pets/plain/seed-1", "pets/plain/seed-2", "pets/plain/seed-0"]
    assert "0.9000" in lines[1]
    assert lines[-1] == "3 runs in runs"
    worst = cli("runs", "runs", "--sort", "test/acc", "--reverse", "--limit", "1").stdout.splitlines()
    assert worst[1].startswith("pets/plain/seed-0")
    assert worst[-1] == "1 of 3 runs in runs"


def test_a_real_run_is_listed(cli: Cli, trained: Path) -> None:
    done = cli("runs", trained.parents[1], "--columns", "run,status,optimizer/name,optimizer/lr,test/acc,size")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.splitlines()[:2]
    assert head.split() == ["run", "status", "optimizer/name", "optimizer/lr", "test/acc", "size"]
    assert row.split()[1:4] == ["finished", "adamw", "0.01"]


def test_csv_and_json_hold_the_rows(cli: Cli, runs: Path, tmp_path: Path) -> None:
    arguments = ["--filter", "test/acc>0.75", "--filter", "seed_everything<2", "--csv", "out/a.csv", "--json", "a.json"]
    done = cli("runs", *arguments)
    assert done.returncode == 0, done.stderr
    assert "written    out/a.csv: 1 rows" in done.stdout
    with (tmp_path / "out" / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["run"], row["test/acc"], row["epochs"]) == ("pets/plain/seed-1", "0.9", "3")
    (found,) = json.loads((tmp_path / "a.json").read_text())
    assert found["test/acc"] == 0.9
    assert found["seed_everything"] == 1
    cli("runs", "--columns", "run,test/acc", "--json", "a.json")
    assert json.loads((tmp_path / "a.json").read_text())[0].keys() == {"run", "test/acc"}


def test_a_narrow_terminal_shows_what_matters_and_names_the_rest(
    cli: Cli, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "45")
    done = cli("runs")
    lines = done.stdout.splitlines()
    assert all(len(line) <= 45 for line in lines[:-1])
    assert lines[0].split() == ["run", "status", "best/val/acc"]
    assert "not shown because the terminal is too narrow: seed, " in lines[-1]
    monkeypatch.setenv("COLUMNS", "20")
    assert cli("runs").returncode == 0


def test_no_runs_message(cli: Cli, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert cli("runs", "empty").stdout == "no run in empty\n"
    assert cli("runs", "--filter", "test/acc>1").stdout == "no run of the 3 runs in runs meets the filter\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone"], "folder of runs not found: gone"),
        (["--sort", "test/ac"], 'Did you mean "test/acc"'),
        (["--filter", "acc>0.5"], 'Did you mean "best/val/acc"'),
        (["--limit", "0"], "--limit: expected int > 0, got 0"),
        (["--reverse"], "--reverse: expected --sort COLUMN"),
        (["--csv", "runs/pets"], "cannot be written"),
    ],
)
def test_invalid_input_is_one_error(cli: Cli, runs: Path, arguments: list[str], message: str) -> None:
    done = cli("runs", *arguments)
    assert done.returncode == (6 if "written" in message else 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_neither_runs_nor_compare_import_torch(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom imgrec.cli.main import main\n"
        f"assert main(['runs', {str(runs)!r}, '--csv', 'a.csv']) == 0\n"
        f"assert main(['compare', {str(runs)!r}, '--group-by', 'none', '--out', 'a.html', '--no-images']) == 0\n"
        "heavy = {'torch', 'torchvision', 'timm', 'pytorch_lightning', 'wandb'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
