"""A run that stopped in the middle of an epoch resumes with the batches of an uninterrupted run."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from imgrec.data import ImageDataModule
from imgrec.types import Batch

EPOCHS = 3
STEPS = 5  # 5 * 256 of 1439 training images an epoch


class Small(pl.LightningModule):
    """Model that records the images of each step and reads the number of steps before training, as a schedule does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.seen: dict[int, tuple[tuple[str, ...], int]] = {}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.seen[self.global_step] = (batch.ids, int(batch.images.long().sum()))
        logits = self.layer(batch.images[:, 0].flatten(1) / 255)
        return nn.functional.cross_entropy(logits, batch.targets)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val/images", float(len(batch)), batch_size=len(batch), reduce_fx="sum")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches == EPOCHS * STEPS
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, workers: int = 0, stop: int = -1, resume: Path | None = None) -> Small:
    """Train to the end, or stop after ``stop`` steps with a checkpoint."""
    pl.seed_everything(0, verbose=False)
    model = Small()
    data = ImageDataModule(
        "digits",
        batch_size=256,
        train_transforms=[{"name": "random_crop", "padding": 1}],
        num_workers=workers,
        seed=0,
    )

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == stop:
                trainer.save_checkpoint(folder / "stopped.ckpt")
                raise KeyboardInterrupt

    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Stop()],
    )
    try:
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    except (KeyboardInterrupt, SystemExit):
        assert stop > 0
    return model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Small:
    model = run(tmp_path_factory.mktemp("whole"))
    assert len(model.seen) == EPOCHS * STEPS
    return model


@pytest.mark.parametrize("stop", [2, STEPS - 1, STEPS, STEPS + 1, 2 * STEPS, 2 * STEPS + 3])
def test_the_rest_is_the_same_at_every_place(whole: Small, tmp_path: Path, stop: int) -> None:
    first = run(tmp_path, stop=stop)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        rest = run(tmp_path, resume=tmp_path / "stopped.ckpt")
    assert list(first.seen) == list(range(stop))
    assert first.seen == {step: seen for step, seen in whole.seen.items() if step < stop}
    assert rest.seen == {step: seen for step, seen in whole.seen.items() if step >= stop}
    assert torch.equal(rest.layer.weight, whole.layer.weight)


def test_with_worker_processes_too(whole: Small, tmp_path: Path) -> None:
    run(tmp_path, workers=1, stop=STEPS + 2)
    rest = run(tmp_path, workers=2, resume=tmp_path / "stopped.ckpt")
    assert rest.seen == {step: seen for step, seen in whole.seen.items() if step >= STEPS + 2}
    assert torch.equal(rest.layer.weight, whole.layer.weight)


def test_each_epoch_has_another_order_that_lightning_names(whole: Small) -> None:
    epochs = [[whole.seen[e * STEPS + s][0] for s in range(STEPS)] for e in range(EPOCHS)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    for batches in epochs:
        assert len({i for ids in batches for i in ids}) == STEPS * 256


def test_overfitting_takes_the_same_mixed_batches_each_epoch() -> None:
    model = Small()
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=0.1)  # type: ignore[method-assign]
    data = ImageDataModule("digits", batch_size=32, num_workers=0)
    trainer = pl.Trainer(
        max_epochs=2,
        overfit_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    assert [model.seen[s] for s in (0, 1)] == [model.seen[s] for s in (2, 3)]
    targets = data.source.targets[[int(i) for i in model.seen[0][0]]]
    assert len(set(targets.tolist())) >= 6
