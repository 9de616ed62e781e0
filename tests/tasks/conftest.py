from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from imgrec import ClassificationTask, ImageDataModule
from imgrec.tasks import BaseTask

TINY: dict[str, Any] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}

Trained = tuple[BaseTask, pl.Trainer]


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture
def tiny_backbone() -> dict[str, Any]:
    """The spec of a network of some ten thousand parameters."""
    return dict(TINY)


@pytest.fixture
def digits() -> ImageDataModule:
    """The digits at 16 pixels, in batches of 64."""
    return make_digits()


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Trained]:
    """Function ``fit(task, data=..., max_steps=...)`` that trains and returns the task and the trainer."""

    def run(task: BaseTask, data: ImageDataModule | None = None, **trainer: Any) -> Trained:
        return run_fit(task, data, **trainer)

    return run


def make_digits(**arguments: Any) -> ImageDataModule:
    given: dict[str, Any] = {"source": "digits", "image_size": 16, "channels": 1, "batch_size": 64, "num_workers": 0}
    return ImageDataModule(**given | arguments)


def run_fit(task: BaseTask, data: ImageDataModule | None = None, **trainer: Any) -> Trained:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    made = pl.Trainer(**options | ({"max_epochs": 1, "limit_train_batches": 3} | trainer))
    made.fit(task, datamodule=data if data is not None else make_digits())
    return task, made


@pytest.fixture(scope="session")
def learnt(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[ClassificationTask, pl.Trainer, Path, list[dict[str, float]]]:
    """A task after six epochs, its trainer, its checkpoint, and the metrics of each epoch."""
    figures: list[dict[str, float]] = []

    class MetricHistory(pl.Callback):
        """Callback that stores the metrics of an epoch when the next one starts, and at the end."""

        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.current_epoch:
                self.on_train_end(trainer, pl_module)

        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        task = ClassificationTask(
            backbone={**TINY, "channels": [16, 16, 16, 16], "stem_width": 16},
            head={"name": "linear", "dropout": 0.1},
            loss=[{"name": "cross_entropy", "class_weights": "balanced"}, {"name": "focal", "weight": 0.5}],
            regularizers={"name": "l2", "weight": 1e-4},
            optimizer={"name": "adamw", "lr": 0.01},
            normalize="half",
        )
        _, trainer = run_fit(task, max_epochs=6, limit_train_batches=1.0, callbacks=[MetricHistory()])
    path = tmp_path_factory.mktemp("learnt") / "task.ckpt"
    trainer.save_checkpoint(path)
    return task, trainer, path, figures
