"""Removal of hook overhead: the weights are bit-equal."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature

from imgrec import ClassificationTask
from imgrec.callbacks import remove_hook_overhead
from tests.tasks.conftest import TINY, make_digits


class Counting(pl.Callback):
    """Callback with two hooks of a step."""

    def __init__(self) -> None:
        self.begun = 0
        self.stepped = 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.begun += 1

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.stepped += 1


class Quiet(pl.Callback):
    """Callback with no hook of a step and one of an epoch."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_train_epoch_start(self, *_: Any) -> None:
        self.epochs += 1


def train(lean: bool) -> tuple[ClassificationTask, list[pl.Callback], pl.Trainer]:
    callbacks: list[pl.Callback] = [Counting(), Quiet()]
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, limit_train_batches=4, limit_val_batches=1, callbacks=callbacks, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    task = ClassificationTask(backbone=TINY, normalize="half")
    if lean:
        remove_hook_overhead(trainer, task)
        remove_hook_overhead(trainer, task)  # a second time does nothing
    trainer.fit(task, datamodule=make_digits())
    return task, callbacks, trainer


@pytest.fixture(autouse=True)
def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")


def test_overridden_hooks_are_called_and_weights_are_bit_equal() -> None:
    lean, callbacks, _ = train(lean=True)
    counting, quiet = callbacks
    assert isinstance(counting, Counting)
    assert isinstance(quiet, Quiet)
    assert (counting.begun, counting.stepped, quiet.epochs) == (4, 4, 1)
    plain, _, _ = train(lean=False)
    assert all(torch.equal(a, b) for a, b in zip(lean.parameters(), plain.parameters(), strict=True))


def test_empty_hooks_are_skipped() -> None:
    _, (counting, quiet), _ = train(lean=True)
    assert "on_train_batch_start" not in vars(counting)
    assert vars(counting)["on_train_batch_end"] is None
    assert vars(quiet)["on_before_zero_grad"] is None
    assert callable(quiet.on_train_epoch_end)  # a call once per epoch costs little


def test_arguments_of_the_step_are_cached() -> None:
    task, _, _ = train(lean=True)
    assert is_param_in_hook_signature(task.training_step, "batch_idx", min_args=2)
    assert not is_param_in_hook_signature(task.training_step, "dataloader_iter", explicit=True)
    assert list(inspect.signature(task.training_step).parameters) == ["batch", "batch_idx"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_driver_is_searched_without_a_gpu() -> None:
    train(lean=True)
    assert os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] == "0"
