"""Callbacks of Lightning in a config, by their short names, and their files in the run folder."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from imgrec import ClassificationTask, RunFolder
from imgrec.metrics import classification_scores

Cli = Callable[..., "CompletedProcess[str]"]


def the_run(tmp_path: Path) -> RunFolder:
    (run,) = (tmp_path / "runs/tiny").iterdir()
    return RunFolder(run)


def test_lightning_early_stopping(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    stopping = "{class_path: EarlyStopping, monitor: val/loss, patience: 1, min_delta: 1000}"
    done = cli("fit", "--config", tiny, "--trainer.callbacks+", stopping, "--trainer.max_epochs", "9")
    assert done.returncode == 0, done.stderr
    run = the_run(tmp_path)
    assert run.summary["epochs"] == 2
    assert run.summary["status"] == "finished"
    assert run.metrics()["val/loss"].epochs.tolist() == [0, 1]
    assert "stopped early: val/loss has not improved on" in done.stdout
    assert run.summary["stopped"].startswith("val/loss has not improved on")


def test_averaged_weights_are_evaluated_and_saved(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    averaging = "{class_path: EMAWeightAveraging, decay: 0.8}"
    done = cli("fit", "--config", tiny, "--trainer.callbacks", averaging, "--trainer.limit_train_batches", "1.0")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    run = the_run(tmp_path)
    checkpoint = torch.load(run.checkpoint("best"), weights_only=True)
    averaged, last = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert not torch.equal(averaged["model.head.linear.weight"], last["model.head.linear.weight"])
    with (run.path / "metrics.csv").open(newline="") as file:
        epochs = {int(row["epoch"]): float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]}
    assert run.summary["val"]["loss"] == epochs[run.summary["best_epoch"]]
    kept = {split: run.predictions(split) for split in ("val", "test")}
    assert run.summary["test"]["nll"] == pytest.approx(
        classification_scores(kept["test"].logits, kept["test"].targets)["nll"], rel=1e-6
    )
    before = run.summary["test"]
    again = cli("test", run.path)  # has no averaging callback and uses the weights of the checkpoint
    assert again.returncode == 0, again.stderr
    assert RunFolder(run.path).summary["test"] == before
    task = ClassificationTask.load_from_checkpoint(run.checkpoint("best"), weights_only=True)
    assert torch.equal(task.state_dict()["model.head.linear.weight"], averaged["model.head.linear.weight"])


def test_averaging_run_resumes(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    words = ["--config", tiny, "--trainer.callbacks", "{class_path: EMAWeightAveraging, decay: 0.8}"]
    assert cli("fit", *words).returncode == 0
    last = the_run(tmp_path).checkpoint("last")
    done = cli("fit", *words, "--ckpt_path", last, "--trainer.max_epochs", "3", "--experiment", "more")
    assert done.returncode == 0, done.stderr
    (more,) = (tmp_path / "runs/more").iterdir()
    assert RunFolder(more).metrics()["val/loss"].epochs.tolist() == [2]


def test_custom_checkpoint_callback_replaces_the_defaults(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    own = "{class_path: ModelCheckpoint, init_args: {monitor: val/loss, filename: best, save_last: true}}"
    done = cli("fit", "--config", tiny, "--trainer.callbacks", f"[{own}]")
    assert done.returncode == 0, done.stderr
    run = the_run(tmp_path)
    assert run.summary["monitor"] == "val/loss"
    assert run.summary["best_score"] == pytest.approx(min(run.metrics()["val/loss"].values))
    assert sorted(p.name for p in (run.path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_checkpoint_with_another_name_is_found_in_a_moved_run(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    own = '{class_path: ModelCheckpoint, monitor: val/loss, filename: "mine-{epoch}", auto_insert_metric_name: false}'
    assert cli("fit", "--config", tiny, "--trainer.callbacks", f"[{own}]").returncode == 0
    run = the_run(tmp_path)
    named = run.summary["checkpoint"]
    assert named == f"checkpoints/mine-{run.summary['best_epoch']}.ckpt"
    moved = (tmp_path / "runs/tiny").rename(tmp_path / "moved") / run.path.name
    (moved / "predictions/test.parquet").unlink()
    done = cli("test", moved)
    assert done.returncode == 0, done.stderr
    assert RunFolder(moved).has_predictions("test")
    (moved / "predictions/test.parquet").unlink()
    assert cli("test", moved / named).returncode == 0
    assert RunFolder(moved).has_predictions("test")


def test_learning_rate_is_logged(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.log_every_n_steps", "3", "--model.schedule", "constant")
    assert done.returncode == 0, done.stderr
    rates = {name: series for name, series in the_run(tmp_path).metrics().items() if name.startswith("lr-")}
    assert rates
    for series in rates.values():
        assert series.values.tolist() == [0.01] * len(series)
        assert series.steps.tolist() == [2, 5, 8, 11]


def test_callback_name_and_dotted_override_are_accepted(cli: Cli, tiny: Path) -> None:
    words = ["--trainer.logger", "CSVLogger", "--trainer.logger.init_args.save_dir", "mirror", "--print_config"]
    done = cli("fit", "--config", tiny, *words)
    assert done.returncode == 0, done.stderr
    assert "class_path: CSVLogger" in done.stdout
    assert "save_dir: mirror" in done.stdout
