"""The Python functions of the engine: each has the results of its command."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import imgrec
from imgrec import RunFolder, UserError

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    return state


def same_results(a: RunFolder, b: RunFolder) -> bool:
    ours, theirs = weights(a), weights(b)
    figures = ("val", "test", "epochs", "steps", "status")
    return all(torch.equal(ours[key], theirs[key]) for key in ours.keys() | theirs.keys()) and all(
        a.summary[key] == b.summary[key] for key in figures
    )


def test_fit_equals_the_command(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    assert cli("fit", "--config", tiny, "--model.optimizer.lr", "0.02").returncode == 0
    (path,) = (tmp_path / "runs" / "tiny").iterdir()
    command = RunFolder(path)
    run = imgrec.fit(tiny, {"model.optimizer.lr": 0.02})
    assert run.path.parent.resolve() == path.parent
    assert run.path.name != path.name
    assert same_results(run, command)
    assert run.report.is_file()
    from_mapping = imgrec.fit(
        {**yaml.safe_load(tiny.read_text()), "experiment": "mapping"}, {"model.optimizer.lr": 0.02}
    )
    assert same_results(from_mapping, command)


def test_resume_equals_the_command(cli: Cli, trained: Path, tmp_path: Path) -> None:
    first, second = (Path(shutil.copytree(trained, tmp_path / "runs" / "tiny" / name)) for name in ("a", "b"))
    longer = ["--allow-changed", "trainer.max_epochs", "--trainer.max_epochs", "3"]
    assert cli("resume", first, *longer).returncode == 0
    run = imgrec.resume(second, {"trainer.max_epochs": 3}, allow_changed=["trainer.max_epochs"])
    assert run.summary["epochs"] == 3
    assert same_results(run, RunFolder(first))
    assert imgrec.resume(run).path == run.path  # a finished run is returned unchanged
    with pytest.raises(UserError, match="allow-changed"):
        imgrec.resume(run, {"trainer.max_epochs": 4})


def test_evaluations_equal_the_commands(cli: Cli, trained: Path, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(trained, tmp_path / "runs" / "tiny" / "a"))
    assert cli("test", run.path, "--data.batch_size", "32").returncode == 0
    assert imgrec.evaluate_split(run, "test") == pytest.approx(run.summary["test"])
    assert imgrec.evaluate_split(run.path, "val", {"data.batch_size": 32}) == pytest.approx(run.summary["val"])
    with pytest.raises(UserError, match='split: expected "val" or "test"'):
        imgrec.evaluate_split(run, "train")  # type: ignore[arg-type]
    whole = imgrec.evaluate(run, "digits", name="python")
    assert cli("evaluate", run.path, "digits", "--name", "command").returncode == 0
    stored = RunFolder(run.path).path / "evaluations"
    assert (stored / "python" / "metrics.json").is_file()
    assert len(whole.predictions) == 1797
    assert imgrec.evaluate_run is imgrec.evaluate


def test_predict_equals_the_command(cli: Cli, trained: Path, tmp_path: Path) -> None:
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (16, 16), np.uint8)).save(tmp_path / f"{k}.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    found = imgrec.predict(trained, [tmp_path / "0.png", str(tmp_path / "[12].png"), tmp_path / "broken.png"])
    assert [each.path.name for each in found] == ["0.png", "1.png", "2.png", "broken.png"]
    assert found[3].error is not None
    done = cli("predict", trained, "0.png", "1.png", "2.png", "--top", "1")
    printed = [line.partition(": ")[2] for line in done.stdout.splitlines() if ".png" in line]
    assert printed == [f"{each.classes[0]} {each.probabilities[0]:.4f}" for each in found[:3]]
    with pytest.raises(UserError, match="batch_size: expected 1 or more"):
        imgrec.predict(trained, tmp_path, batch_size=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"modle": {}},), "modle"),
        (({"model": {"loss": "focl"}, "data": {"source": "digits"}},), "focl"),
        ((["missing.yaml"],), "missing.yaml"),
        (({"data": {"source": "digits"}, "trainer": {"fast_dev_run": True}},), "fast_dev_run"),
    ],
)
def test_invalid_input_has_one_error(arguments: tuple[Any, ...], message: str, tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(UserError, match=message):
        imgrec.fit(*arguments)
    assert not (tmp_path / "runs").exists()
