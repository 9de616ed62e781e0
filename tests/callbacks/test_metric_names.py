from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint

from imgrec import ClassificationTask, ImageDataModule, UserError
from imgrec.callbacks import MetricNameCheck

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def fit(tmp_path: Path, *callbacks: EarlyStopping | ModelCheckpoint) -> int:
    """Train for two steps and return the number of steps."""
    task = ClassificationTask(
        backbone={"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    )
    trainer = Trainer(
        default_root_dir=tmp_path,
        max_steps=2,
        val_check_interval=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks, MetricNameCheck()],
    )
    try:
        trainer.fit(task, datamodule=ImageDataModule(source="digits", channels=1, image_size=16))
    finally:
        steps = trainer.global_step
    return steps


@pytest.mark.parametrize(
    "callback", [EarlyStopping(monitor="val/accuracy"), ModelCheckpoint(monitor="val/accuracy", mode="max")]
)
def test_unknown_metric_raises_before_the_first_step(callback: EarlyStopping | ModelCheckpoint, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f'{type(callback).__name__}: validation logs no "val/accuracy".*"val/acc"'):
        fit(tmp_path, callback)
    assert list(tmp_path.rglob("*.ckpt")) == []


@pytest.mark.parametrize("monitor", ["val/acc", "val/loss", "val/auroc"])
def test_validation_metric_is_accepted(monitor: str, tmp_path: Path) -> None:
    assert fit(tmp_path, EarlyStopping(monitor=monitor)) == 2


def test_command_reports_errors_that_lightning_raises_later(cli: Cli, tiny: Path) -> None:
    monitor = "{class_path: ModelCheckpoint, monitor: val/losss, filename: best}"
    done = cli("fit", "--config", tiny, "--trainer.callbacks", monitor, "--trainer.num_sanity_val_steps", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("imgrec: error: trainer: ")
    assert "val/losss" in done.stderr
