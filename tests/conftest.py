"""Fixtures of all tests: the command in this process, a trained run, and small run folders."""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from imgrec.cli.main import main
from imgrec.reports.svg import SvgFigure
from imgrec.runs.folder import create_run_folder
from imgrec.runs.metrics_csv import MetricsLog
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary, write_json
from imgrec.utils import yaml

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
StoredRun = Callable[..., Path]

TINY = """
model:
  backbone: {name: resnet18, layers: [1, 1, 1, 1], channels: [8, 8, 8, 8], stem_width: 8}
  optimizer: {name: adamw, lr: 0.01}
  normalize: half
  channels_last: false
data:
  source: digits
  image_size: 16
  channels: 1
trainer: {max_epochs: 2, limit_train_batches: 6, precision: 32-true}
"""
"""A config that trains in half a second. It sets what ``auto`` would measure first."""


@pytest.fixture(scope="session", autouse=True)
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep caches of decoded images in a folder of the test session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGREC_CACHE", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _hangup() -> None:
    """Give SIGHUP its default action: nohup ignores it, and processes that the tests start inherit that."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs `imgrec` in this process, in ``tmp_path``: exit status, stdout and stderr.

    Reports of a training have empty figures: drawing takes a fifth of a short training. Figures are drawn for the run
    of ``trained``, for the other commands and in tests/reports.
    """
    monkeypatch.chdir(tmp_path)
    _contained(monkeypatch)

    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        arguments = [str(word) for word in words]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["imgrec", *arguments])
            if arguments[:1] in (["fit"], ["resume"]):
                patch.setattr(SvgFigure, "__exit__", _leave_empty)
            status = _status(arguments)
        captured = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, captured.out, captured.err)

    return run


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Path of a config that trains a tiny network on the digits in half a second."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the tiny config. Tests only read it, and write into a copy."""
    place = tmp_path_factory.mktemp("trained")
    (place / "tiny.yaml").write_text(TINY)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.chdir(place)
        _contained(patch)
        assert _status(["fit", "--config", "tiny.yaml"]) == 0
    (run,) = (place / "runs" / "tiny").iterdir()
    return run


@pytest.fixture(scope="session")
def unclocked() -> Callable[[Path], list[dict[str, str]]]:
    """Return a function that reads metrics.csv without the columns of the machine, which differ between equal runs."""

    def rows(path: Path) -> list[dict[str, str]]:
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: v for k, v in row.items() if not k.startswith("system/")} for row in csv.DictReader(file)]

    return rows


@pytest.fixture(scope="session")
def stored_run() -> StoredRun:
    """Return a function that writes a small run folder: ``stored_run(root, "a/b", 0, right, config={...})``.

    ``right`` is True for each image with a correct prediction. There are three classes: cat, dog and emu. Further
    keywords: ``ids``, ``config`` (arguments of the task), ``summary``, ``targets``, ``class_names``, ``split``.
    """
    return _store_run


@pytest.fixture
def installed() -> Cli:
    """Return a function that runs the command in a new process: ``installed("--help", cwd=tmp_path)``."""
    command = Path(sys.executable).parent / "imgrec"

    def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([command, *words], cwd=cwd, capture_output=True, text=True, timeout=300, check=False)

    return run


def _store_run(root: Path, experiment: str, seed: int, right: ArrayLike, **given: Any) -> Path:
    correct = np.asarray(right, dtype=bool)
    names = given.get("class_names", ["cat", "dog", "emu"])
    targets = np.asarray(given.get("targets", np.arange(len(correct)) % len(names)))
    predicted = np.where(correct, targets, (targets + 1) % len(names))
    folder = create_run_folder(root, experiment, given.get("run_id", f"seed-{seed}"))
    config = {"experiment": experiment, "seed_everything": seed, "model": {"init_args": given.get("config", {})}}
    (folder / "config.yaml").write_text(yaml.dump(config))
    write_json(folder / "environment.json", {"experiment": experiment, "started": f"2026-11-21T14:30:{seed:02d}+00:00"})
    with MetricsLog(folder / "metrics.csv") as log:
        for epoch in range(3):
            share = (epoch + 1) / 3
            figures = {"val/acc": share * correct.mean(), "val/nll": 2 - share, "train/loss": 1.5 - share}
            log.append(10 * epoch + 9, epoch, figures)
    ids = given.get("ids", [f"image/{i:04d}.png" for i in range(len(correct))])
    split = given.get("split", "test")
    logits = 4.0 * np.eye(len(names))[predicted] + np.linspace(0, 1, len(correct))[:, None]
    write_predictions(folder / "predictions" / f"{split}.parquet", Predictions(ids, targets, logits, names))
    finished = {"status": "finished", "monitor": "val/acc", "best_score": float(correct.mean()), "best_epoch": 2}
    finished |= {"epochs": 3, "train_seconds": 12.5 + seed, "parameters": 1234, split: {"acc": float(correct.mean())}}
    update_summary(folder, finished | given.get("summary", {}))
    return folder


def _leave_empty(figure: SvgFigure, *error: Any) -> None:
    figure._settings.__exit__(*error)
    figure.svg = "<svg></svg>"


def _status(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as error:  # raised by argparse
        return error.code if isinstance(error.code, int) else 1


def _contained(patch: pytest.MonkeyPatch) -> None:
    """Undo the changes of a command to the process when the test ends."""
    patch.setattr(sys, "path", list(sys.path))
    patch.setenv("PL_GLOBAL_SEED", "0")
    patch.setenv("PL_SEED_WORKERS", "0")
