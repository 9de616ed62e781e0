"""Run folders of the version before the modules moved: tested, predicted with, resumed and compared.

A resumed run is compared with the stored uninterrupted run. The weights must be bit-equal on a processor with the same
model, stepping and instruction sets and with the same torch release (machine.json). On other machines floating-point
kernels differ, and a tolerance applies. A new run of the stored config must have all files and keys.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits

import imgrec
from imgrec import RunFolder
from tests.interface.make_runs import describe_machine

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

STORED = Path(__file__).parent / "runs"
EXPERIMENTS = ("plain", "pruned", "qat", "distilled", "structured")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Return a copy of the stored runs in the current folder of the commands."""
    return Path(shutil.copytree(STORED, tmp_path / "runs"))


@pytest.fixture(scope="module")
def is_same_machine() -> bool:
    stored = json.loads((STORED.parent / "machine.json").read_text(encoding="utf-8"))
    return bool(describe_machine() == stored)


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    content = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_stopped_run_ends_like_the_uninterrupted_one(name: str, cli: Cli, runs: Path, is_same_machine: bool) -> None:
    complete, stopped = runs / name / "complete", runs / name / "stopped"
    done = cli("resume", stopped)
    assert done.returncode == 0, done.stderr
    expected, got = weights(complete), weights(stopped)
    assert expected.keys() == got.keys()
    for key in expected:
        if is_same_machine:
            assert torch.equal(expected[key], got[key]), key
        else:
            torch.testing.assert_close(got[key], expected[key], rtol=0.05, atol=0.05)
    check_files(complete, stopped)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_new_run_has_all_files_and_keys(name: str, cli: Cli, runs: Path) -> None:
    config = runs / name / "complete" / "config.yaml"
    done = cli("fit", "--config", config)
    assert done.returncode == 0, done.stderr
    (new,) = (path for path in (runs / name).iterdir() if path.name not in ("complete", "stopped"))
    check_files(runs / name / "complete", new)


def check_files(before: Path, after: Path) -> None:
    """Check that every file of a stored run exists in a present run, with all of its keys and columns."""
    files = {path.relative_to(before) for path in before.rglob("*") if path.is_file()}
    assert files <= {path.relative_to(after) for path in after.rglob("*") if path.is_file()}
    for file in sorted(files):
        old, new = content_of(before / file), content_of(after / file)
        assert list(missing_keys(old, new)) == [], file


def content_of(path: Path) -> Any:
    """Return the content of a file as mappings, with columns as keys."""
    if path.suffix == ".yaml":
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return dict.fromkeys(next(csv.reader(file)))
    if path.suffix == ".parquet":
        return {field.name: str(field.type) for field in pq.read_schema(path)}
    if path.suffix == ".ckpt":
        return torch.load(path, weights_only=True)
    return None


def missing_keys(old: Any, new: Any, path: str = "") -> list[str]:
    """Return the keys of nested mappings that are missing in ``new``. Loop states of Lightning are not compared."""
    if not isinstance(old, Mapping) or path == "/loops" or path.endswith("/best_k_models"):
        return []
    missing = [f"{path}/{key}" for key in old if key not in new]
    return missing + [each for key in old if key in new for each in missing_keys(old[key], new[key], f"{path}/{key}")]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_stored_figures_are_measured_again(name: str, cli: Cli, runs: Path) -> None:
    run = RunFolder(runs / name / "complete")
    before = run.summary["test"]
    done = cli("test", run.path)
    assert done.returncode == 0, done.stderr
    assert RunFolder(run.path).summary["test"] == pytest.approx(before, abs=2e-3)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_predictions_are_those_of_the_stored_run(name: str, cli: Cli, runs: Path, tmp_path: Path) -> None:
    run = RunFolder(runs / name / "complete")
    stored = run.predictions("test")
    digits = load_digits().images
    rows = [int(re.findall(r"\d+", each)[-1]) for each in stored.ids[:12]]
    files = []
    for row in rows:
        files.append(tmp_path / f"{row}.png")
        Image.fromarray(np.round(digits[row] * 255 / 16).astype(np.uint8)).save(files[-1])
    found = np.stack([each.logits for each in imgrec.load(run.path).predict(files)])
    tolerance = 0.02 if name == "qat" else 2e-3  # int8: one step of a rounded tensor
    np.testing.assert_allclose(found, stored.logits[:12], atol=tolerance)
    done = cli("predict", run.path, *files)
    assert done.returncode == 0, done.stderr


def test_stored_runs_are_compared(cli: Cli, runs: Path) -> None:
    done = cli("compare", *(runs / name / "complete" for name in EXPERIMENTS))
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in EXPERIMENTS)
