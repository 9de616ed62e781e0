"""Checks of the trainer that several callbacks share."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy

from imgrec.errors import UserError


def require_whole_weights(trainer: pl.Trainer, callback: str) -> None:
    """Raise an error if the strategy shards the weights over the processes.

    Raises:
        UserError: If it does.
    """
    if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        raise UserError(
            f"trainer.strategy: expected all weights in every process, which {callback} requires, got "
            f"{type(trainer.strategy).__name__}. Use ddp, or remove {callback}."
        )


def reject_lightning_averaging(trainer: pl.Trainer, callback: str) -> None:
    """Raise an error if a callback of Lightning averages weights across a change of the model.

    Raises:
        UserError: If one does.
    """
    for each in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(each, WeightAveraging | StochasticWeightAveraging):
            raise UserError(
                f"trainer.callbacks: expected EMA to average the weights, as {callback} changes the model, got "
                f"{type(each).__name__}."
            )


def count_steps(trainer: pl.Trainer, key: str) -> int:
    """Return the number of optimizer steps of the training.

    Args:
        trainer: Trainer during ``fit``.
        key: Argument that is a fraction of training, for the message.

    Raises:
        UserError: If the training has no limit.
    """
    steps = trainer.estimated_stepping_batches
    if not math.isfinite(steps) or steps < 0:
        raise UserError(
            f"{key}: expected a training of limited length, because it is a fraction of training. Set "
            "trainer.max_epochs or trainer.max_steps."
        )
    return int(steps)


def reject_feature_parameters(part: Any) -> None:
    """Raise an error if a loss or a regularizer has parameters of the length of the features.

    Raises:
        UserError: If it has.
    """
    for module in part.modules() if isinstance(part, torch.nn.Module) else ():
        if getattr(module, "feature_width", None) is not None:
            raise UserError(
                f"trainer.callbacks: expected no parameters of the length of the features with StructuredPruning, got "
                f"{type(module).__name__}. Remove one of them."
            )


def gradient_scale(trainer: pl.Trainer) -> float:
    """Return the factor of the gradients in mixed half precision."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0
