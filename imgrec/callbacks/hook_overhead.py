"""What Lightning does at every step for nothing, left out."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytorch_lightning as pl
import torch

_OFTEN = (
    *("on_train_batch_start", "on_train_batch_end", "on_validation_batch_start", "on_validation_batch_end"),
    *("on_test_batch_start", "on_test_batch_end", "on_predict_batch_start", "on_predict_batch_end"),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)


def make_lean(trainer: pl.Trainer, task: pl.LightningModule) -> None:
    """Spare a training step what has no effect; results stay as they are, bit for bit.

    - A callback's hook of a step that does nothing is set to ``None`` on that callback, which Lightning passes over; it
      would open a profiler's context for each of them, several times a step.
    - What arguments ``training_step`` takes is looked up once, not at every step.
    - Where there is no GPU, no driver is looked for at every optimizer step.

    Args:
        trainer: with all its callbacks; called again, it takes in those that came later.
        task: what it is going to train.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name in _OFTEN:
            if getattr(type(callback), name, None) is getattr(pl.Callback, name) and name not in vars(callback):
                setattr(callback, name, None)
    step: Any = type(task).training_step
    if inspect.isfunction(step) and not hasattr(step, "__signature__"):
        step.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        # Lightning asks torch to look for NVIDIA's driver library in a way that is not remembered
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
