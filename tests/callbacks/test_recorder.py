"""Run recorder: the folder after training, after a failure, and with ``fast_dev_run``."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml

from imgrec import ClassificationTask, ImageDataModule, RunFolder, RunRecorder
from imgrec.engine.trainer import best_and_last
from imgrec.export import load_model_folder
from imgrec.metrics import classification_scores

Cli = Callable[..., "CompletedProcess[str]"]


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------------- after training


def test_run_folder_is_complete(trained: Path) -> None:
    found = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    assert found == {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "summary.json",
        "report.html",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "predictions/val.parquet",
        "predictions/test.parquet",
        "splits.parquet",
        "model/README.md",
        "model/config.json",
        "model/model.safetensors",
    }


def test_metrics_have_one_row_for_each_epoch_and_the_test(trained: Path) -> None:
    table = rows(trained)
    epochs = [row for row in table if row["val/loss"]]
    assert [(row["step"], row["epoch"]) for row in epochs] == [("5", "0"), ("11", "1")]
    assert all(row["train/loss"] and row["train/acc"] and row["val/acc"] for row in epochs)
    tests = [row for row in table if row["test/acc"]]
    assert len(tests) == 1
    assert len(table) == len({row["step"] for row in table})


def test_summary_of_a_finished_run(trained: Path) -> None:
    summary = RunFolder(trained).summary
    assert summary["status"] == "finished"
    assert (summary["epochs"], summary["steps"]) == (2, 12)
    assert summary["split_sizes"] == {"train": 1439, "val": 179, "test": 179}
    assert summary["skipped_images"] == {}
    assert summary["train_seconds"] > 0
    assert summary["monitor"] == "val/acc"
    task = ClassificationTask.load_from_checkpoint(trained / "checkpoints/best.ckpt", weights_only=True)
    assert summary["parameters"] == sum(p.numel() for p in task.parameters())
    epochs = [row for row in rows(trained) if row["val/acc"]]
    accuracies = {int(row["epoch"]): float(row["val/acc"]) for row in epochs}
    losses = {int(row["epoch"]): float(row["val/loss"]) for row in epochs}
    best = max(accuracies, key=lambda epoch: (accuracies[epoch], -losses[epoch]))  # the loss breaks ties
    assert summary["best_epoch"] == best
    assert summary["best_score"] == pytest.approx(accuracies[best])
    assert summary["val"]["acc"] == accuracies[best]


def test_metrics_summary_and_predictions_are_consistent(trained: Path) -> None:
    run = RunFolder(trained)
    for split in ("val", "test"):
        kept = run.predictions(split)
        assert list(kept.ids) == sorted(kept.ids)
        assert len(set(kept.ids)) == 179
        again = classification_scores(kept.logits, kept.targets)
        for name, value in again.items():
            assert run.summary[split][name] == pytest.approx(value, abs=1e-6), name
    (tested,) = (row for row in rows(trained) if row["test/acc"])
    for name, value in run.summary["test"].items():
        assert float(tested[f"test/{name}"]) == value


def test_environment_is_complete(trained: Path) -> None:
    environment = RunFolder(trained).environment
    data = ImageDataModule("digits", image_size=16, channels=1)
    data.setup("fit")
    assert environment["data_fingerprint"] == data.fingerprint
    assert environment["seed"] == 0
    assert environment["experiment"] == "tiny"
    assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_config_contains_every_default(trained: Path) -> None:
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["seed_everything"] == 0
    assert config["model"]["class_path"] == "imgrec.ClassificationTask"
    assert config["model"]["init_args"]["schedule"] == {
        "name": "cosine",
        "final": 0.0,
        "warmup": 0.0,
        "warmup_start": 0.01,
    }
    assert config["data"]["init_args"]["val_fraction"] == 0.1
    assert config["trainer"]["limit_train_batches"] == 6
    assert not {"facts", "load_weights"} & config["model"]["init_args"].keys()


def test_model_folder_contains_the_best_checkpoint(trained: Path) -> None:
    classifier, facts = load_model_folder(trained / "model")
    task = ClassificationTask.load_from_checkpoint(trained / "checkpoints/best.ckpt", weights_only=True)
    assert facts == task.facts
    images = torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(classifier.eval()(images), task.eval()(images))
    expected = (trained / "model/README.md").read_text()
    assert "Trained by the experiment `tiny`" in expected


# ---------------------------------------------------------------- from Python


def make(
    tmp_path: Path, *callbacks: pl.Callback, **trainer: Any
) -> tuple[pl.Trainer, ClassificationTask, ImageDataModule]:
    task = ClassificationTask(
        {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}, normalize="half"
    )
    data = ImageDataModule("digits", image_size=16, channels=1, batch_size=64, num_workers=0)
    options: dict[str, Any] = {
        "max_epochs": 1,
        "limit_train_batches": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": tmp_path,
    }
    return pl.Trainer(**options | {"callbacks": list(callbacks)} | trainer), task, data


def test_trainer_in_python_writes_the_same_folder(tmp_path: Path, cli: Cli) -> None:
    recorder = RunRecorder("mine/first", tmp_path / "runs")
    trainer, task, data = make(tmp_path, recorder, *best_and_last(), logger=pl.loggers.CSVLogger(tmp_path / "mirror"))
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    assert recorder.folder is not None
    run = RunFolder(recorder.folder)
    assert run.path.parent == tmp_path / "runs/mine/first"
    assert run.summary["status"] == "finished"
    assert run.has_predictions("test")
    assert not run.has_predictions("val")
    assert run.config["data"]["init_args"]["image_size"] == 16
    (mirror,) = (tmp_path / "mirror").rglob("metrics.csv")
    assert "test/acc" in mirror.read_text()
    again = cli("validate", run.path)
    assert again.returncode == 0, again.stderr
    assert run.has_predictions("val")


class Failing(pl.Callback):
    """Callback that raises an error in the middle of the second epoch."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise self.error


def test_failure_is_stored_in_the_summary_and_files_stay(tmp_path: Path) -> None:
    recorder = RunRecorder("failing", tmp_path / "runs")
    trainer, task, data = make(tmp_path, recorder, Failing(ArithmeticError("the loss is NaN")), max_epochs=3)
    with pytest.raises(ArithmeticError):
        trainer.fit(task, datamodule=data)
    assert recorder.folder is not None
    run = RunFolder(recorder.folder)
    assert run.summary["status"] == "failed"
    assert run.summary["error"] == "ArithmeticError: the loss is NaN"
    assert run.metrics()["val/acc"].epochs.tolist() == [0]
    assert (run.path / "config.yaml").is_file()
    assert not run.model_folder.exists()
    (kept,) = (run.path / "checkpoints").glob("*.ckpt")
    assert ClassificationTask.load_from_checkpoint(kept, weights_only=True).facts == task.facts


def test_interruption_is_stored_in_the_summary(tmp_path: Path) -> None:
    recorder = RunRecorder("stopped", tmp_path / "runs")
    trainer, task, data = make(tmp_path, recorder, Failing(KeyboardInterrupt()), max_epochs=3)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer.fit(task, datamodule=data)
    assert recorder.folder is not None
    assert RunFolder(recorder.folder).summary["status"] == "interrupted"


def test_fast_dev_run_writes_no_file(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.fast_dev_run", "true")
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.yaml"]


def test_run_without_checkpoints_saves_the_last_weights(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.enable_checkpointing", "false", "--trainer.max_epochs", "1")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs/tiny").iterdir()
    assert not (run / "checkpoints").exists()
    assert (run / "model/model.safetensors").is_file()
    summary = RunFolder(run).summary
    assert summary["status"] == "finished"
    assert "best_epoch" not in summary
    assert "the last epoch" in (run / "model/README.md").read_text()
    assert summary["val"]["acc"] == float(rows(run)[-2]["val/acc"] or rows(run)[0]["val/acc"])


def test_last_checkpoint_is_that_of_the_last_epoch(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    # nothing is learnt, and no batch norm gathers statistics: the first epoch stays the best
    words = ["--model.optimizer.lr", "0", "--model.backbone", "test_vit", "--trainer.max_epochs", "3"]
    done = cli("fit", "--config", tiny, *words)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs/tiny").iterdir()
    steps = {
        name: torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["global_step"]
        for name in ("best", "last")
    }
    assert steps == {"best": 6, "last": 18}
    assert RunFolder(run).summary["best_epoch"] == 0


def test_run_without_validation_is_complete(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.max_steps", "3", "--trainer.limit_train_batches", "1.0")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (run,) = (tmp_path / "runs/tiny").iterdir()
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    summary = RunFolder(run).summary
    assert (summary["status"], summary["steps"]) == ("finished", 3)
    assert cli("test", run).returncode == 0
    assert RunFolder(run).summary["test"] == summary["test"]


def test_task_with_a_custom_model_has_no_model_folder(tmp_path: Path) -> None:
    class Own(ClassificationTask):
        def build_model(self, facts: Any) -> Any:
            return super().build_model(facts)

    recorder = RunRecorder("own", tmp_path / "runs")
    trainer, _, data = make(tmp_path, recorder)
    backbone = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    trainer.fit(Own(backbone, normalize="half"), datamodule=data)
    assert recorder.folder is not None
    run = RunFolder(recorder.folder)
    assert run.summary["status"] == "finished"
    assert not run.model_folder.exists()


def test_two_runs_of_one_second_have_different_folders(tmp_path: Path) -> None:
    folders = []
    for _ in range(2):
        recorder = RunRecorder("twin", tmp_path / "runs")
        trainer, task, data = make(tmp_path, recorder, limit_train_batches=1, limit_val_batches=1)
        trainer.fit(task, datamodule=data)
        folders.append(recorder.folder)
    assert len(set(folders)) == 2
    a, b = (RunFolder(folder).metrics() for folder in folders if folder is not None)
    assert np.array_equal(a["val/loss"].values, b["val/loss"].values)


def test_second_evaluation_writes_the_same_files_only(cli: Cli, trained: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "copy"
    shutil.copytree(trained, run)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    kept = json.loads((run / "summary.json").read_text())
    (run / "predictions/test.parquet").unlink()
    done = cli("test", run)
    assert done.returncode == 0, done.stderr
    after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert after.keys() == before.keys()
    assert {p.name for p in after if after[p] != before[p]} <= {"test.parquet", "summary.json"}
    assert json.loads((run / "summary.json").read_text()) == kept
    first, second = RunFolder(trained).predictions("test"), RunFolder(run).predictions("test")
    assert list(first.ids) == list(second.ids)
    assert np.array_equal(first.logits, second.logits)
