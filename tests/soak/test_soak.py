"""Soak tests: runs killed with SIGKILL at random points and resumed equal uninterrupted runs bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.soak import configs, harness


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Import all modules before the processes are forked."""
    harness.import_everything()


def check(name: str, kills: int, folder: Path, seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = configs.SOAKS[name]
    outcome = harness.soak(name, chosen.config, kills, folder, seed, chosen.processes, chosen.teacher)
    with capsys.disabled():
        print(f"\n{harness.table([outcome])}")
    assert len(outcome.kills) == kills
    assert outcome.equal, harness.table([outcome])


@pytest.mark.forks
@pytest.mark.slow
@pytest.mark.parametrize("name", configs.SOAKS)
def test_killed_run_equals_uninterrupted(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, configs.SOAKS[name].share, tmp_path, seed=0, capsys=capsys)


@pytest.mark.soak
@pytest.mark.parametrize("name", configs.SOAKS)
def test_many_kills(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(name, 5 * configs.SOAKS[name].share, tmp_path, seed=1, capsys=capsys)


def test_matrix_has_twenty_kills() -> None:
    assert sum(each.share for each in configs.SOAKS.values()) >= 20


@pytest.mark.slow
def test_installed_command_killed_at_any_time(tmp_path: Path) -> None:
    """Kill the installed command twice from outside, at arbitrary times."""
    (tmp_path / "soak.yaml").write_text(yaml.safe_dump(configs.SOAKS["everything, 2 workers"].config))
    command = [str(Path(sys.executable).parent / "imgrec"), "fit", "--config", "soak.yaml", "--ckpt_path", "last"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--runs", "whole"], cwd=tmp_path, env=environment, capture_output=True, check=True)
    (whole,) = (tmp_path / "whole/soak").iterdir()
    for kill in range(3):
        process = subprocess.Popen(
            [*command, "--runs", "killed"],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if kill < 2:
            metrics = tmp_path / "killed"
            before = {p: p.stat().st_size for p in metrics.rglob("metrics.csv")}
            while process.poll() is None and before == {p: p.stat().st_size for p in metrics.rglob("metrics.csv")}:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == 0
    (killed,) = (tmp_path / "killed/soak").iterdir()
    assert harness.differences(whole, killed) == []
    assert len(json.loads((killed / "summary.json").read_text())["resumed"]) == 2


def test_comparison_finds_differences() -> None:
    ours = {"a": [torch.zeros(3), 1.0, "x"], "b": {"c": float("nan")}}
    same = {"a": [torch.zeros(3), 1.0, "x"], "b": {"c": float("nan")}}
    assert harness.unlike(ours, same) == []
    negative = {"a": [-torch.zeros(3), 1.0, "x"], "b": {"c": 1.0}, "d": 0}
    assert harness.unlike(ours, negative) == [
        ": only one has 'd'",
        "/a[0]: tensors",
        "/b/c: nan and 1.0",
    ]
    assert harness.unlike([1], [1, 2]) == [": 1 and 2 elements"]
    assert harness.unlike(1, 1.0) == [": int and float"]


@pytest.mark.forks
@pytest.mark.slow
def test_inexact_resume_is_detected(tmp_path: Path) -> None:
    """The harness detects random numbers that depend on history: NumPy's generator is in no checkpoint."""
    config = {**configs.SOAKS["plain"].config}
    (tmp_path / "drawn.py").write_text(
        "import numpy\nimport torch\nfrom imgrec import ClassificationTask\n\n"
        "class Drawn(ClassificationTask):\n"
        "    def compute_loss(self, output):\n"
        "        return super().compute_loss(output) * (1 + 0.1 * float(numpy.random.rand()))\n"
    )
    config["model"] = {"class_path": "drawn.Drawn", **config["model"]}
    config["evaluate_after_fit"] = False
    outcome = harness.soak("drawn", config, 1, tmp_path, seed=13)
    assert outcome.resumed_at[0] > 0
    assert any("state_dict" in difference for difference in outcome.differences)
