"""Small training with pruning that records its weights, shared by several tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from imgrec import ClassificationTask
from tests.callbacks.small_training import digits, task, trainer


class History(pl.Callback):
    """Record of the convolution weights and the gradients of every step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.gradients: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.weights.append(prunable(dict(pl_module.named_parameters())))
        self.gradients.append({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None})

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.after.append(prunable(dict(pl_module.named_parameters())))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.validated.append(prunable(dict(pl_module.named_parameters())))


def prunable(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Return a copy of the weights that are masked by default: all convolutions except the first."""
    first = "model.backbone.network.conv1.weight"
    return {k: v.detach().clone() for k, v in tensors.items() if v.dim() == 4 and k != first}


def zeros(tensors: dict[str, Tensor]) -> int:
    return sum(int((value == 0).sum()) for value in tensors.values())


def size(tensors: dict[str, Tensor]) -> int:
    return sum(value.numel() for value in tensors.values())


def fit(
    place: Path, callbacks: list[pl.Callback], **options: Any
) -> tuple[History, ClassificationTask, dict[str, Any], pl.Trainer]:
    """Train and return the history, the task, the last checkpoint and the trainer."""
    history, module = History(), task(optimizer={"name": "adamw", "lr": 0.01, "weight_decay": 0.1})
    resume = options.pop("resume", None)
    last = ModelCheckpoint(dirpath=place, filename="last", enable_version_counter=False)
    run = trainer(place, [history, *callbacks, last], **options)
    run.fit(module, datamodule=digits(), ckpt_path=resume, weights_only=True)
    return history, module, torch.load(place / "last.ckpt", weights_only=True), run
