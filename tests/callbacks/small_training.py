"""Small training in Python, uninterrupted or resumed, shared by the tests of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from imgrec import ClassificationTask, ImageDataModule
from imgrec.callbacks import PositionalSeeding

Callbacks = Callable[[], Sequence[pl.Callback]]
BACKBONE = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8, "drop_rate": 0.2}


def task(**arguments: Any) -> ClassificationTask:
    """Return a task with 13,000 weights."""
    return ClassificationTask(
        **{"backbone": BACKBONE, "normalize": "half", "optimizer": {"name": "sgd", "lr": 0.1}} | arguments
    )


def digits() -> ImageDataModule:
    return ImageDataModule("digits", image_size=16, channels=1, batch_size=64, num_workers=0)


def trainer(place: Path, callbacks: Sequence[pl.Callback], **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": 2,
        "limit_train_batches": 6,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "default_root_dir": place,
        "log_every_n_steps": 2,
    }
    return pl.Trainer(**defaults | options | {"callbacks": [*callbacks, PositionalSeeding()]})


def in_two_parts(
    place: Path, callbacks: Callbacks, at_step: int, **options: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the last checkpoints of an uninterrupted training and of one that resumed at ``at_step``."""

    def last() -> ModelCheckpoint:
        return ModelCheckpoint(dirpath=place / "whole", filename="last", enable_version_counter=False)

    def early() -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=place / "early",
            filename="{step}",
            every_n_train_steps=1,
            save_top_k=-1,
            auto_insert_metric_name=False,
        )

    whole = trainer(place, [*callbacks(), early(), last()], **options)
    whole.fit(task(), datamodule=digits())
    again = trainer(place, [*callbacks(), ModelCheckpoint(dirpath=place / "again", filename="last")], **options)
    again.fit(task(), datamodule=digits(), ckpt_path=place / f"early/{at_step}.ckpt", weights_only=True)
    first, second = (torch.load(place / part / "last.ckpt", weights_only=True) for part in ("whole", "again"))
    return first, second


def same(one: Any, other: Any) -> bool:
    """Return True if two trees of tensors and plain values are bit-equal."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
