"""Progress output: one line for each epoch without a terminal, a bar in a terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytorch_lightning as pl

from imgrec import ClassificationTask, ImageDataModule
from imgrec.callbacks import EpochProgress
from imgrec.utils.console import PlainConsole

Cli = Callable[..., "CompletedProcess[str]"]
LINE = re.compile(
    r"epoch \d/2  train loss \d\.\d{4} acc \d\.\d{4}  val loss \d\.\d{4} acc \d\.\d{4}  "
    r"lr \d\.\d\de[-+]\d\d  \d+\.\d s(  best so far)?"
)


def run(progress: EpochProgress, tmp_path: Path, **trainer: Any) -> pl.Trainer:
    task = ClassificationTask(
        {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}, normalize="half"
    )
    data = ImageDataModule("digits", image_size=16, channels=1, batch_size=64, num_workers=0)
    options: dict[str, Any] = {
        "max_epochs": 2,
        "limit_train_batches": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    made = pl.Trainer(**options | trainer, callbacks=[progress])
    made.fit(task, datamodule=data)
    made.test(task, datamodule=data, verbose=False)
    return made


def test_one_line_for_each_epoch_without_a_terminal(cli: Cli, tiny: Path) -> None:
    expected = cli("fit", "--config", tiny).stdout
    lines = [line for line in expected.splitlines() if line.startswith("epoch")]
    assert len(lines) == 2
    assert all(LINE.fullmatch(line) for line in lines), lines
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert lines[0].endswith("best so far")
    assert "\r" not in expected
    assert "\x1b" not in expected
    assert "%|" not in expected


def test_line_contains_the_metrics_of_its_epoch(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    import csv

    expected = cli("fit", "--config", tiny).stdout
    (metrics,) = (tmp_path / "runs").rglob("metrics.csv")
    with metrics.open(newline="") as file:
        epochs = [row for row in csv.DictReader(file) if row["val/acc"]]
    lines = [line for line in expected.splitlines() if line.startswith("epoch")]
    for line, row in zip(lines, epochs, strict=True):
        for name in ("train", "val"):
            assert f"{name} loss {float(row[f'{name}/loss']):.4f} acc {float(row[f'{name}/acc']):.4f}" in line


def test_bar_is_shown_and_removed_in_a_terminal(tmp_path: Path) -> None:
    progress = EpochProgress()
    screen = io.StringIO()
    progress._console = PlainConsole(file=screen, force_terminal=True, width=100)
    run(progress, tmp_path)
    expected = screen.getvalue()
    assert "epoch 1/2" in expected
    assert "validating" in expected
    assert "testing" in expected
    assert "\x1b[2K" in expected  # a line of the bar is wiped
    assert progress._bar is None
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", expected)
    assert len([line for line in re.split(r"[\r\n]", plain) if LINE.fullmatch(line.rstrip())]) == 2


def test_loss_is_read_only_when_the_bar_is_drawn(tmp_path: Path) -> None:
    progress = EpochProgress()
    progress._console = PlainConsole(file=io.StringIO(), force_terminal=True, width=100)
    moves: list[int] = []
    progress._move = lambda completed, note="": moves.append(completed)  # type: ignore[method-assign]
    run(progress, tmp_path, max_epochs=1, limit_train_batches=22)
    assert len(moves) < 22 + 3 + 3  # not once a step: once in a fifth of a second


def test_disabled_progress_prints_nothing(tmp_path: Path) -> None:
    progress = EpochProgress()
    screen = io.StringIO()
    progress._console = PlainConsole(file=screen, force_terminal=True)
    progress.disable()
    progress.print("hello")
    assert screen.getvalue() == ""
    progress.enable()
    progress.print("hello")
    assert "hello" in screen.getvalue()


def test_config_disables_progress(cli: Cli, tiny: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.enable_progress_bar", "false", "--trainer.max_epochs", "1")
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stdout.splitlines() if line.startswith("epoch")]


def test_training_by_steps_prints_lines_without_a_total(cli: Cli, tiny: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.max_epochs", "-1", "--trainer.max_steps", "8")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("epoch")]
    assert [re.sub(r"\s+", " ", line).split(" train")[0] for line in lines] == ["epoch 1", "epoch 2"]
    assert ["val loss" in line for line in lines] == [True, False]  # it ends before the second validation
