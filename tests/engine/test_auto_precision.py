"""Tests of ``auto``: it is resolved before a run starts, is stored in the config and does not change training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from imgrec.engine.config import read_config
from imgrec.engine.experiment import Experiment
from imgrec.engine.tuning import auto_precision as precision
from imgrec.errors import UserError
from imgrec.tasks.precision_benchmark import Measurement, PrecisionConfig
from tests.conftest import TINY, Cli

CHOSEN = PrecisionConfig("bf16-mixed", True)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Path of the tiny config with the default precision and memory order, which are ``auto``."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("  channels_last: false\n", "").replace(", precision: 32-true", ""))
    return path


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Simulate times in which bfloat16 with channels last is fastest. Return the list of measured batch sizes."""
    asked: list[int] = []

    def measure_precisions(task: Any, batch_size: int, ways: list[PrecisionConfig]) -> Measurement:
        asked.append(batch_size)
        return Measurement(8, {way: 0.5 if way == CHOSEN else 1.0 for way in ways}, {})

    monkeypatch.setattr(precision, "is_small", lambda task, batch_size: False)
    monkeypatch.setattr(precision, "measure_precisions", measure_precisions)
    monkeypatch.setenv("IMGREC_CACHE", str(tmp_path / "caches"))
    return asked


def settled(run: Path) -> tuple[str, bool]:
    config = yaml.safe_load((run / "config.yaml").read_text())
    return config["trainer"]["precision"], config["model"]["init_args"]["channels_last"]


def only_run(folder: Path) -> Path:
    (found,) = (folder / "runs").glob("*/*/config.yaml")
    return found.parent


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if not k.startswith("system/")} for row in csv.DictReader(file)]


def test_small_network_is_float32_in_config(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.max_epochs", "1")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # a choice that changes nothing needs no line
    assert settled(only_run(tmp_path)) == ("32-true", False)


def test_measurement_is_used_and_cached(cli: Cli, tiny: Path, tmp_path: Path, measured: list[int]) -> None:
    arguments = ("fit", "--config", tiny, "--trainer.max_epochs", "1", "--evaluate_after_fit", "false")
    first = cli(*arguments, "--runs", "first/runs")
    assert first.returncode == 0, first.stderr
    assert "precision bf16-mixed channels_last: a step of 8 images: bf16-mixed channels_last 500 ms," in first.stderr
    run = only_run(tmp_path / "first")
    assert settled(run) == CHOSEN
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["channels_last"] is True
    weights = [v for k, v in checkpoint["state_dict"].items() if k.endswith("conv1.weight") and v.shape[1] > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)

    again = cli(*arguments, "--runs", "again/runs", "--seed_everything", "3", "--model.loss", "focal")
    assert "measured before on this machine" in again.stderr
    assert settled(only_run(tmp_path / "again")) == CHOSEN
    repeated = cli("fit", "--config", run / "config.yaml", "--runs", "repeated/runs")
    assert repeated.returncode == 0, repeated.stderr
    assert "precision" not in repeated.stderr
    assert rows(only_run(tmp_path / "repeated")) == rows(run)
    assert measured == [64]
    cli(*arguments, "--runs", "other/runs", "--data.batch_size", "32")
    assert measured == [64, 32]


def test_measurement_has_no_side_effects(cli: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real measurement before training, and none: the same metrics and weights."""
    monkeypatch.setattr(precision, "is_small", lambda task, batch_size: False)
    monkeypatch.setattr(precision, "select_fastest", lambda seconds: CHOSEN)
    monkeypatch.setenv("IMGREC_CACHE", str(tmp_path / "caches"))
    arguments = ("fit", "--config", tiny, "--trainer.max_epochs", "1", "--evaluate_after_fit", "false")
    with_one = cli(*arguments, "--runs", "measured/runs")
    given = ("--trainer.precision", CHOSEN.precision, "--model.channels_last", "true")
    without = cli(*arguments, *given, "--runs", "given/runs")
    assert with_one.returncode == without.returncode == 0, with_one.stderr + without.stderr
    runs = [only_run(tmp_path / name) for name in ("measured", "given")]
    assert settled(runs[0]) == settled(runs[1]) == CHOSEN
    assert rows(runs[0]) == rows(runs[1])
    states = [torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"] for run in runs]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize(
    ("given", "expected", "message"),
    [
        ({"trainer.precision": "bf16"}, ("bf16", True), "precision bf16-mixed channels_last: a step"),
        ({"trainer.precision": "64-true"}, ("64-true", False), "nothing is measured for precision 64-true"),
        ({"model.channels_last": False}, ("32-true", False), "precision 32-true: a step of 8 images"),
        ({"trainer.devices": 2, "trainer.strategy": "ddp"}, ("32-true", False), "2 processes measure nothing"),
        ({"trainer.fast_dev_run": True}, ("32-true", False), "fast_dev_run measures nothing"),
    ],
)
def test_only_auto_is_resolved(
    tiny: Path, measured: list[int], caplog: pytest.LogCaptureFixture,
    given: dict[str, Any], expected: tuple[str, bool], message: str,
) -> None:  # fmt: skip
    config = read_config(tiny)
    config["trainer"] = {**config["trainer"], "accelerator": "cpu"}
    for key, value in given.items():
        part, name = key.split(".")
        target = config[part] if part == "trainer" else config[part].get("init_args", config[part])
        target[name] = value
    experiment = Experiment(config)
    with caplog.at_level("INFO", logger="imgrec"):
        trainer = experiment.resolve_auto()
    init_args = experiment.config["model"]["init_args"]
    assert (experiment.config["trainer"]["precision"], init_args["channels_last"]) == expected
    assert experiment.task.channels_last is init_args["channels_last"]
    assert message in caplog.text
    assert trainer.precision == {"bf16": "bf16-mixed"}.get(expected[0], expected[0])


def test_damaged_cache_of_measurements_is_rewritten(cli: Cli, tiny: Path, tmp_path: Path, measured: list[int]) -> None:
    file = tmp_path / "caches" / "precision.json"
    file.parent.mkdir()
    file.write_text('{"a": 3')
    assert cli("fit", "--config", tiny, "--trainer.max_epochs", "1").returncode == 0
    assert measured == [64]
    assert CHOSEN.precision in file.read_text()


def test_unknown_precision_is_rejected_with_suggestion(tiny: Path) -> None:
    config = read_config(tiny)
    config["trainer"] = {"precision": "bf16-mixt"}
    with pytest.raises(UserError, match=r'there is no "bf16-mixt". Did you mean "bf16-mixed"') as caught:
        Experiment(config)
    assert "Accepted: auto, 32-true, bf16-mixed" in str(caught.value)
