from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
StoredRun = Callable[..., Path]


@pytest.fixture
def runs(tmp_path: Path, stored_run: StoredRun) -> Path:
    """Two recipes with two seeds each in ``runs``."""
    for seed in range(2):
        for name, share in (("plain", 0.9), ("focal", 0.6)):
            right = np.random.default_rng([seed, len(name), int(10 * share)]).random(200) < share
            stored_run(tmp_path / "runs", name, seed, right, config={"loss": name})
    return tmp_path / "runs"


def test_groups_are_compared_in_words_and_in_files(cli: Cli, runs: Path, tmp_path: Path) -> None:
    done = cli("compare", "runs", "--out", "a.html", "--no-images", "--json", "a.json", "--markdown", "a.md")
    assert done.returncode == 0, done.stderr
    assert "4 runs on 200 test images" in done.stdout
    assert "plain is better than focal by" in done.stdout
    assert "▁" in done.stdout
    assert "█" in done.stdout
    assert [line.split() for line in done.stdout.splitlines() if line.startswith("loss/name")] == [
        ["loss/name", "focal", "plain"]
    ]
    assert done.stdout.count("written    ") == 3
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["pairs"][0]["better"] == "plain"
    assert found["pairs"][0]["verdict"] in (tmp_path / "a.md").read_text()
    assert "<img" not in (tmp_path / "a.html").read_text()


def test_real_runs_are_compared_with_their_images(cli: Cli, trained: Path, tmp_path: Path) -> None:
    again = shutil.copytree(trained, tmp_path / "again")
    text = (again / "config.yaml").read_text()
    changed = text.replace("lr: 0.01", "lr: 0.02")
    assert changed != text
    (again / "config.yaml").write_text(changed)
    done = cli("compare", trained, again, "--out", "a.html")
    assert done.returncode == 0, done.stderr
    assert "are not distinguishable: the difference is +0.00 points" in done.stdout
    assert "optimizer/lr" in done.stdout
    assert "no thumbnails" not in done.stdout
    assert "Every group is one run" in (tmp_path / "a.html").read_text()


def test_without_the_data_there_are_no_thumbnails(cli: Cli, runs: Path, tmp_path: Path) -> None:
    done = cli("compare", "runs", "--group-by", "none", "--out", "a.html")
    assert done.returncode == 0, done.stderr
    assert "is not available: data.class_path" in done.stdout
    assert "classify differently" in (tmp_path / "a.html").read_text()


def test_a_narrow_terminal_is_not_overrun(cli: Cli, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = cli("compare", "runs").stdout.splitlines()
    tables = lines[: lines.index(next(line for line in lines if "is better" in line))]
    assert all(len(line) <= 60 for line in tables)


def test_many_pairs_are_cut_to_the_clearest(cli: Cli, runs: Path, stored_run: StoredRun) -> None:
    for seed in range(2, 6):
        stored_run(runs, "plain", seed, np.random.default_rng(seed).random(200) < 0.9)
    done = cli("compare", "runs", "--group-by", "none")
    assert "and 13 more pairs with larger p-values" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/plain/seed-0"], "at least 2 runs, got 1"),
        (["runs/plain/seed-0", "gone"], "run folder not found: gone"),
        (["runs", "--group-by", "los/name"], 'Did you mean "loss/name"'),
        (["runs", "--split", "val"], "no predictions on val, only on test"),
        (["runs", "--out", "runs"], "cannot be written"),
    ],
)
def test_invalid_input_is_one_error(cli: Cli, runs: Path, arguments: list[str], message: str) -> None:
    done = cli("compare", *arguments)
    assert done.returncode == (6 if "written" in message else 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
