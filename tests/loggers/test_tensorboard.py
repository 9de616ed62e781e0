"""TensorBoard logger, read with the reader of TensorBoard."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from imgrec import RunFolder, TensorBoardLogger, UserError

reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    found: Any = reader.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return [(event.step, event.value) for event in found.Scalars(name)]


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_resumed_run_has_every_value_once(folder: Path) -> None:
    first = TensorBoardLogger()
    first.begin_run(folder)
    for step in range(6):
        first.log_metrics({"loss": float(step)}, step)
    first.finalize("failed")
    second = TensorBoardLogger()
    second.begin_run(folder)
    second.resume({step: {"loss": float(step), "epoch": 0} for step in range(4)})  # the checkpoint was of step 4
    for step in range(4, 8):
        second.log_metrics({"loss": 10.0 + step}, step)
    second.close()
    assert scalars(folder, "loss") == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 14), (5, 15), (6, 16), (7, 17)]


def test_hyperparameters_are_the_flat_config(folder: Path) -> None:
    logger = TensorBoardLogger()
    logger.begin_run(folder)
    logger.log_hyperparams({"something": "else"})
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    text = (folder / "tensorboard" / "hparams.yaml").read_text()
    assert "loss/name: cross_entropy" in text
    assert "something" not in text


def test_muted_logger_writes_nothing(folder: Path) -> None:
    logger = TensorBoardLogger()
    logger.begin_run(folder)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.muted = True
    logger.log_metrics({"loss": 2.0}, 1)
    logger.close()
    assert scalars(folder, "loss") == [(0, 1.0)]


def test_nothing_is_written_without_a_folder(folder: Path) -> None:
    logger = TensorBoardLogger()
    with pytest.raises(AttributeError, match="begin with training, once"):
        _ = logger.experiment
    logger.begin_run(folder)
    assert logger.experiment is not None
    logger.close()
    assert RunFolder(folder).path / "tensorboard" == Path(logger.log_dir)


def test_logger_outside_a_run_folder_behaves_as_in_lightning(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path / "logs", name="mine", version="one")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.close()
    assert list((tmp_path / "logs/mine/one").glob("events.*"))


def test_missing_package_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fabric.loggers import tensorboard

    monkeypatch.setattr(tensorboard, "_TENSORBOARD_AVAILABLE", False)
    monkeypatch.setattr(tensorboard, "_TENSORBOARDX_AVAILABLE", False)
    with pytest.raises(UserError, match="pip install"):
        TensorBoardLogger()
