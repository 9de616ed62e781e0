"""Schedules of augmentation and test-time views, in training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from imgrec import AugmentationStrength, ClassificationTask, ImageDataModule, ImageSizeSchedule, TestTimeViews
from imgrec.errors import UserError
from imgrec.types import Batch, StepOutput

BACKBONE: dict[str, Any] = {
    "name": "resnet18",
    "layers": [1, 1, 1, 1],
    "channels": [8, 8, 8, 8],
    "stem_width": 8,
}


class Watching(ClassificationTask):
    """Task that records the batches of training."""

    def model_step(self, batch: Batch) -> StepOutput:
        if self.training:
            vars(self).setdefault("seen", []).append((batch.images.clone(), batch.targets.clone(), batch.ids))
        return super().model_step(batch)


def trained(
    *callbacks: pl.Callback,
    folder: Path,
    transforms: list[Any] | None = None,
    resume: Path | None = None,
    **options: Any,
) -> Any:
    """Train a small model for eight steps on the digits and return the task."""
    data = ImageDataModule("digits", image_size=16, channels=1, train_transforms=transforms or ["resize"], seed=0)
    task = Watching(backbone=BACKBONE, normalize="half")
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=4,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    return task


def test_image_size_increases_to_the_full_size(tmp_path: Path) -> None:
    schedule = ImageSizeSchedule(start=0.5, until=0.75)
    task = trained(schedule, folder=tmp_path, enable_checkpointing=False)
    assert [images.shape[-1] for images, _, _ in task.seen] == [
        schedule.compute_size(step / 8, 16) for step in range(8)
    ]
    assert [images.shape[-1] for images, _, _ in task.seen] == [8, 8, 12, 12, 12, 16, 16, 16]


def test_resumed_run_has_the_strength_of_its_step(tmp_path: Path) -> None:
    transforms = ["resize", {"name": "brightness", "amount": 0.9}, "mixup"]
    saving = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    whole = trained(AugmentationStrength(), saving, folder=tmp_path, transforms=transforms)
    resumed = trained(
        AugmentationStrength(),
        folder=tmp_path,
        transforms=transforms,
        resume=tmp_path / "epoch=0.ckpt",
        enable_checkpointing=False,
    )
    assert len(resumed.seen) == 4
    for (images, targets, ids), (again, targets_again, ids_again) in zip(whole.seen[4:], resumed.seen, strict=True):
        assert ids == ids_again
        assert torch.equal(images, again)
        assert torch.equal(targets, targets_again)
    rows = whole.seen[0][1]
    assert torch.equal(rows, rows.round())  # strength 0 mixes nothing
    assert any(not torch.equal(rows, rows.round()) for _, rows, _ in whole.seen)


def test_schedule_is_linear_and_then_constant() -> None:
    strength = AugmentationStrength(start=0.2, end=0.8, until=0.5)
    assert [round(strength.compute_strength(p), 6) for p in (0.0, 0.25, 0.5, 0.9)] == [0.2, 0.5, 0.8, 0.8]
    size = ImageSizeSchedule(start=0.5, until=0.5, multiple=32)
    assert [size.compute_size(p, 224) for p in (0.0, 0.25, 0.49, 0.5, 1.0)] == [128, 160, 224, 224, 224]


def test_other_data_module_raises() -> None:
    with pytest.raises(UserError, match=r"ImageSizeSchedule: expected an imgrec\.ImageDataModule, got NoneType"):
        ImageSizeSchedule().on_train_start(pl.Trainer(logger=False, accelerator="cpu"), pl.LightningModule())


def test_evaluation_averages_the_views_and_restores_the_task(tmp_path: Path) -> None:
    task = trained(folder=tmp_path, enable_checkpointing=False)
    data = ImageDataModule("digits", image_size=16, channels=1, seed=0)

    def evaluated(*callbacks: pl.Callback) -> Any:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            limit_test_batches=2,
            use_distributed_sampler=False,
            callbacks=list(callbacks),
        )
        trainer.test(task, datamodule=data, verbose=False)
        return task.predictions

    plain, mean = evaluated(), evaluated(TestTimeViews("hflip"))
    assert plain.ids == mean.ids
    batches = list(data.test_dataloader())[:2]
    with torch.inference_mode():
        task.eval()
        mirrored = torch.cat([task(batch.images.flip(-1)) for batch in batches])
    expected = (plain.logits.softmax(1) + mirrored.softmax(1)) / 2
    torch.testing.assert_close(mean.logits.softmax(1), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(evaluated().logits, plain.logits)
    assert "model_step" not in vars(task)
