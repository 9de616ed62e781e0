"""System metrics of a run: measured once per epoch, over all processes."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl

from imgrec import ClassificationTask, ImageDataModule, RunFolder
from imgrec.callbacks import MetricsLogger, SystemMonitor
from imgrec.callbacks.monitoring import system as system_figures
from imgrec.runs.metrics_csv import read_metrics
from imgrec.runs.system import system_totals

Cli = Callable[..., "CompletedProcess[str]"]

SLEEP = 0.05


class Slow(pl.Callback):
    """Task with a delay in every training step and validation batch."""

    def on_train_batch_start(self, *_: Any) -> None:
        time.sleep(SLEEP)

    def on_validation_batch_start(self, *_: Any) -> None:
        time.sleep(4 * SLEEP)


class SlowData(ImageDataModule):
    """Data module with the delay of :class:`Slow` for each batch."""

    def train_dataloader(self) -> Any:
        loader: Any = super().train_dataloader()
        read = loader.dataset.__getitems__

        def slowly(places: Any) -> Any:
            time.sleep(SLEEP)
            return read(places)

        loader.dataset.__getitems__ = slowly
        return loader


def train(tmp_path: Path, *callbacks: pl.Callback, data: type[ImageDataModule] = ImageDataModule) -> dict[str, Any]:
    backbone = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=8,
        limit_val_batches=2,
        accelerator="cpu",
        logger=MetricsLogger(tmp_path),
        callbacks=[SystemMonitor(), *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    module = data("digits", image_size=16, channels=1, batch_size=16, num_workers=0)
    trainer.fit(ClassificationTask(backbone, normalize="half"), datamodule=module)
    return {name: series.values for name, series in read_metrics(tmp_path / "metrics.csv").items()}


def test_system_metrics_are_logged_once_per_epoch(trained: Path) -> None:
    run = RunFolder(trained)
    metrics, epochs = run.metrics(), run.metrics()["train/loss"]
    for name in ("images_per_second", "data_wait", "peak_memory_gib"):
        series = metrics[f"system/{name}"]
        assert series.steps.tolist() == epochs.steps.tolist()
        assert (series.values > 0).all()
    assert (metrics["system/data_wait"].values < 1).all()
    totals = run.summary["system"]
    assert totals == system_totals(metrics)
    assert totals["peak_memory_gib"] == pytest.approx(metrics["system/peak_memory_gib"].values.max(), rel=1e-5)
    assert totals["images_per_second"] == pytest.approx(np.median(metrics["system/images_per_second"].values), rel=1e-5)
    assert isinstance(run.environment["hardware"]["energy"], str)
    assert ("energy_joules" in totals) == (not run.environment["hardware"]["energy"].startswith("not measured"))


def test_rate_excludes_validation_and_waiting_is_measured(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", Slow())
    waiting = train(tmp_path / "waiting", Slow(), data=SlowData)
    assert (plain["system/images_per_second"] <= 16 / SLEEP).all()
    first, second = plain["system/seconds"]  # from the end of one epoch to the end of the next
    assert second - first >= 8 * 16 / plain["system/images_per_second"][1] + 2 * 4 * SLEEP
    assert (waiting["system/data_wait"] > plain["system/data_wait"]).all()
    assert (waiting["system/images_per_second"] <= 16 / (2 * SLEEP)).all()
    # of a step at least 50 ms are waiting and at least 50 are not
    seconds = 128 / waiting["system/images_per_second"]
    assert (waiting["system/data_wait"] * seconds >= 8 * SLEEP).all()
    assert (waiting["system/data_wait"] * seconds <= seconds - 8 * SLEEP).all()


class Counter:
    """Meter whose value increases by one joule at each reading."""

    name = "counter"

    def __init__(self) -> None:
        self.read = 0

    def joules(self) -> float:
        self.read += 1
        return float(self.read)


def test_energy_is_measured_for_each_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_figures, "energy_meters", lambda *_, **__: ([Counter(), Counter()], None))
    monkeypatch.setattr(system_figures, "_READ_EVERY", 0.0)  # the counters wrap around: they are read in between, too
    found = train(tmp_path)["system/energy_joules"]
    assert found.tolist() == [18, 18]  # two meters, eight steps and the end of the epoch


def test_no_energy_column_without_a_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_figures, "energy_meters", lambda *_, **__: ([], "there is none"))
    assert "system/energy_joules" not in train(tmp_path)


@pytest.mark.slow
def test_two_processes_count_the_images_of_both(
    installed: Cli, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "slow.py").write_text(
        "import time\nimport pytorch_lightning as pl\n\n\nclass Slow(pl.Callback):\n"
        "    def on_train_batch_start(self, *_):\n        time.sleep(0.2)\n"
    )
    ddp = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]
    words = [*ddp, "--trainer.logger", "WandbLogger", "--trainer.callbacks", "[slow.Slow]", "--data.batch_size", "32"]
    done = installed("fit", "--config", tiny, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (tmp_path / "runs/tiny").iterdir()
    with (folder / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["system/images_per_second"]]
    assert len(rows) == 2
    for row in rows:
        assert float(row["system/images_per_second"]) <= 2 * 32 / 0.2
        assert 0 < float(row["system/data_wait"]) < 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs", "slow.py", "tiny.yaml"]
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1  # one W&B run in all
    assert not list(tmp_path.glob("wandb"))
