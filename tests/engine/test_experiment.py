from __future__ import annotations

import logging
from typing import Any

import pytest
import yaml
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from imgrec import ClassificationTask, ImageDataModule
from imgrec.callbacks import EpochProgress, MetricNameCheck, PositionalSeeding, RankWatch, SystemMonitor
from imgrec.engine.config import normal_form
from imgrec.engine.experiment import Experiment
from imgrec.engine.library_output import quiet_libraries
from imgrec.engine.resolve import resolve
from imgrec.engine.trainer import build_loggers, default_callbacks
from imgrec.errors import UserError


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")


def kinds(callbacks: list[Any]) -> list[str]:
    return [type(callback).__name__ for callback in callbacks]


def test_every_default_is_written_out() -> None:
    config = resolve(normal_form({"data": {"source": "digits"}}))
    assert config["model"]["class_path"] == "imgrec.ClassificationTask"
    assert config["model"]["init_args"]["loss"] == {
        "name": "cross_entropy",
        "label_smoothing": 0.0,
        "class_weights": None,
    }
    assert config["data"]["init_args"]["batch_size"] == 64
    assert config["trainer"]["max_epochs"] == 20
    assert config["seed_everything"] == 0
    assert config["evaluate_after_fit"] is True
    assert "facts" not in config["model"]["init_args"]
    assert resolve(config) == config
    assert yaml.safe_load(yaml.safe_dump(config)) == config


def test_objects_built_from_config() -> None:
    experiment = Experiment(normal_form({"data": {"source": "digits"}, "trainer": {"max_epochs": 3}}))
    assert type(experiment.task) is ClassificationTask
    assert type(experiment.data) is ImageDataModule
    assert experiment.trainer.max_epochs == 3
    assert yaml.safe_load(experiment.resolved) == experiment.config
    assert experiment.trainer.loggers == []
    assert not hasattr(experiment.task, "model")  # the network is built once the data is known


def test_for_evaluation_there_is_progress_and_the_watch_and_nothing_else() -> None:
    trainer = {"callbacks": [{"class_path": "EarlyStopping", "monitor": "val/acc"}], "logger": "CSVLogger"}
    experiment = Experiment(normal_form({"data": {"source": "digits"}, "trainer": trainer}), bare=True)
    assert kinds(experiment.trainer.callbacks) == ["EpochProgress", "RankWatch"]
    assert experiment.trainer.loggers == []
    silent = {**trainer, "enable_progress_bar": False}
    experiment = Experiment(normal_form({"data": {"source": "digits"}, "trainer": silent}), bare=True)
    assert kinds(experiment.trainer.callbacks) == ["RankWatch"]


CHECKPOINTS = {"BestCheckpoint", "LastCheckpoint", "ResumeState"}


@pytest.mark.parametrize(
    ("trainer", "missing"),
    [
        ({}, set()),
        ({"enable_progress_bar": False}, {"EpochProgress"}),
        ({"enable_checkpointing": False}, CHECKPOINTS),
        ({"fast_dev_run": True}, {*CHECKPOINTS, "LearningRateMonitor", "SystemMonitor"}),
    ],
)
def test_the_callbacks_of_every_run(trainer: dict[str, Any], missing: set[str]) -> None:
    own = (PositionalSeeding, MetricNameCheck, RankWatch, EpochProgress, SystemMonitor)
    usual = {cls.__name__ for cls in (*own, LearningRateMonitor)} | CHECKPOINTS
    assert set(kinds(default_callbacks([], trainer))) == usual - missing


def test_callback_replaces_default_of_same_kind() -> None:
    class Mine(ModelCheckpoint):
        pass

    assert "BestCheckpoint" not in kinds(default_callbacks([Mine()], {}))


def test_loggers_are_switched_on_by_name() -> None:
    assert build_loggers(None) is False
    assert build_loggers(False) is False
    assert build_loggers(True) is True
    (logger,) = build_loggers({"class_path": "CSVLogger", "save_dir": "logs"})
    assert isinstance(logger, CSVLogger)
    assert (
        len(build_loggers([{"class_path": "CSVLogger", "save_dir": "a"}, {"class_path": "CSVLogger", "save_dir": "b"}]))
        == 2
    )
    with pytest.raises(UserError, match=r'trainer\.logger\[1\].*"CSVLogger"'):
        build_loggers([{"class_path": "CSVLogger", "save_dir": "a"}, "CSVLoger"])


@pytest.mark.parametrize("seed", [-1, 2**32, "one", 0.5, False])
def test_invalid_seed(seed: object) -> None:
    with pytest.raises(UserError, match="seed_everything"):
        resolve({"seed_everything": seed})


def test_a_library_that_logs_makes_no_message_of_imgrec_appear_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger("imgrec"), "handlers", [])
    quiet_libraries()
    logging.warning("advice of a library")
    logging.getLogger("imgrec.studies.compression.quantize").info("a result")
    logging.getLogger("other").info("chatter")
    assert capsys.readouterr().err.splitlines() == ["advice of a library", "a result"]
