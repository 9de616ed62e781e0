"""Removal of per-step overhead of Lightning that has no effect."""

from __future__ import annotations

import inspect
import os
from typing import Any

import pytorch_lightning as pl
import torch

_STEP_HOOKS = (
    *("on_train_batch_start", "on_train_batch_end", "on_validation_batch_start", "on_validation_batch_end"),
    *("on_test_batch_start", "on_test_batch_end", "on_predict_batch_start", "on_predict_batch_end"),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)


def remove_hook_overhead(trainer: pl.Trainer, task: pl.LightningModule) -> None:
    """Remove per-step Lightning overhead that has no effect. Results stay bit-equal.

    - Hooks of a step that a callback does not override are set to None on the callback, and Lightning skips them.
      Otherwise it opens a profiler context for each of these, several times per step.
    - The signature of ``training_step`` is inspected once instead of at every step.
    - Without a GPU, Lightning does not search for the NVIDIA driver at every optimizer step.

    Args:
        trainer: Trainer with all its callbacks. Call the function again after a callback was added.
        task: Module that the trainer is about to train.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for name in _STEP_HOOKS:
            if getattr(type(callback), name, None) is getattr(pl.Callback, name) and name not in vars(callback):
                setattr(callback, name, None)
    step: Any = type(task).training_step
    if inspect.isfunction(step) and not hasattr(step, "__signature__"):
        step.__signature__ = inspect.signature(step)  # type: ignore[attr-defined]
    if not torch.cuda.is_available():
        # the check of torch that Lightning uses by default is not cached
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
