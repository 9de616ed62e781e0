"""Random numbers depend on the position in training only, for any number of loader workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from imgrec import ClassificationTask, ImageDataModule
from imgrec.callbacks import PositionalSeeding

BACKBONE = {
    "name": "resnet18",
    "layers": [1, 1, 1, 1],
    "channels": [8, 8, 8, 8],
    "stem_width": 8,
    "drop_path_rate": 0.2,
}


class Drawing(pl.Callback):
    """Callback that draws from the default generator of torch."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        torch.rand(trainer.current_epoch + 7)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        torch.rand(3)


def train(
    tmp_path: Path, *callbacks: pl.Callback, workers: int = 0, resume: Path | None = None, stop: int = -1, seed: int = 0
) -> list[Tensor]:
    """Return the weights after two epochs of three steps with dropout and random crops."""
    pl.seed_everything(seed, verbose=False)
    task = ClassificationTask(
        BACKBONE, {"name": "linear", "dropout": 0.5}, normalize="half", optimizer={"name": "momentum", "lr": 0.05}
    )
    data = ImageDataModule(
        "digits",
        image_size=16,
        channels=1,
        batch_size=64,
        train_transforms=["resize", {"name": "random_crop", "padding": 2}, "hflip"],
        num_workers=workers,
    )

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == stop:
                trainer.save_checkpoint(tmp_path / "stopped.ckpt")
                raise KeyboardInterrupt

    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[PositionalSeeding(), *callbacks, Stop()],
    )
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert stop > 0
    return [value.detach().clone() for value in task.state_dict().values()]


@pytest.fixture(autouse=True)
def _seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        return train(tmp_path_factory.mktemp("whole"))


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_same_seed_gives_the_same_weights(whole: list[Tensor], tmp_path: Path) -> None:
    assert equal(train(tmp_path), whole)


def test_other_seed_gives_other_weights(whole: list[Tensor], tmp_path: Path) -> None:
    assert not equal(train(tmp_path, seed=1), whole)


def test_previous_draws_have_no_effect(whole: list[Tensor], tmp_path: Path) -> None:
    assert equal(train(tmp_path, Drawing()), whole)


def test_number_of_workers_has_no_effect(whole: list[Tensor], tmp_path: Path) -> None:
    assert equal(train(tmp_path, workers=2), whole)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_resumed_weights_are_bit_equal(whole: list[Tensor], tmp_path: Path, stop: int) -> None:
    assert not equal(train(tmp_path, stop=stop), whole)
    assert equal(train(tmp_path, resume=tmp_path / "stopped.ckpt"), whole)


def test_dropout_differs_in_every_step() -> None:
    seen: list[float] = []

    class Peek(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(float(torch.rand(())))

    train(Path(), Peek())
    assert len(set(seen)) == len(seen) == 6
