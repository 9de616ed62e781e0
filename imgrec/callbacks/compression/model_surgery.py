"""Change of the model in the middle of its training, and of everything that depends on the shape of its weights."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn

from imgrec.callbacks.checkpoints.best import BestCheckpoint
from imgrec.compress.pruning.optimizer_state import cut_states, remove_parameters
from imgrec.compress.surgery import surgery_of
from imgrec.errors import TrainingFailedError
from imgrec.models import set_channels_last
from imgrec.models.utils.forward import preserve_modes
from imgrec.tasks.callback import imgrec_callbacks

SurgeryFn = Callable[[nn.Module], Mapping[str, Tensor]]
"""Change of a model in place. Parameters keep their identity with new data, or are removed.

It returns int64 indices into the flattened previous tensor, in the new shape, for every pruned parameter and buffer.
"""


def apply_surgery(trainer: pl.Trainer, pl_module: pl.LightningModule, surgery: SurgeryFn) -> None:
    """Change the model of a task between two optimizer steps.

    - The optimizer keeps its groups, learning rates and schedule. Momentum and moments are pruned as the weights.
    - ``on_weights_pruned``, then ``on_model_changed`` of every :class:`imgrec.Callback` is called.
    - The best checkpoint and early stopping are reset.
    - The default random generators do not advance. A compiled model is compiled again at its next batch.
    - DDP is configured again, and the models of all processes are compared.

    Args:
        trainer: Trainer before the first batch of an optimizer step.
        pl_module: Module whose attribute ``model`` is changed.
        surgery: Change of the model.

    Raises:
        TrainingFailedError: If the models of the processes differ.
    """
    task: Any = pl_module
    before = dict(pl_module.named_parameters())
    shapes: dict[Tensor, torch.Size] = {parameter: parameter.shape for parameter in before.values()}
    for parameter in before.values():
        parameter.grad = None
    wrapped = unwrap_ddp(trainer, pl_module)
    devices = [task.device] if task.device.type == "cuda" else []
    with preserve_modes(pl_module), torch.random.fork_rng(devices), torch.compiler.set_stance("force_eager"):
        kept = surgery(task.model)
    if task.channels_last is True:
        set_channels_last(task.model)
    if task.compiling is not False:
        torch.compiler.reset()
    after = dict(pl_module.named_parameters())
    gone = [parameter for name, parameter in before.items() if name not in after]
    cut: dict[Tensor, Tensor] = {
        before[f"model.{name}"]: indices for name, indices in kept.items() if f"model.{name}" in before
    }
    for optimizer in trainer.optimizers:
        remove_parameters(optimizer, gone)
        cut_states(optimizer, shapes, cut)
    if wrapped is not None:
        _check_equal(trainer, task.model)
        wrapped.configure_ddp()
    callbacks = imgrec_callbacks(trainer)
    for callback in callbacks:
        callback.on_weights_pruned(pl_module, {f"model.{name}": indices for name, indices in kept.items()})
    reset_best(trainer)
    for callback in callbacks:
        callback.on_model_changed(trainer, pl_module)


def unwrap_ddp(trainer: pl.Trainer, pl_module: pl.LightningModule) -> DDPStrategy | None:
    """Remove the model from DDP, whose gradient buckets depend on the parameters.

    Returns:
        The strategy, whose ``configure_ddp`` wraps the model again. None without DDP.
    """
    strategy: Any = trainer.strategy
    if not isinstance(strategy, DDPStrategy):
        return None
    strategy.model = pl_module
    gc.collect()  # DDP releases the weights when it is deleted
    return strategy


def _check_equal(trainer: pl.Trainer, model: nn.Module) -> None:
    ours = surgery_of(model)
    same = trainer.strategy.broadcast(ours) == ours
    if not trainer.strategy.reduce_boolean_decision(same):
        raise TrainingFailedError("The processes removed different channels.")


def reset_best(trainer: pl.Trainer) -> None:
    """Reset the best score of checkpoint and early-stopping callbacks after the model changed.

    A change in the middle of a training mostly lowers the accuracy. The best validation before it would otherwise be
    kept as the result, and the patience of early stopping would run out. Files are kept until they are overwritten.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, ModelCheckpoint) and callback.monitor is not None:
            worst = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)
            callback.best_k_models = {}
            callback.best_model_path = callback.kth_best_model_path = ""
            callback.best_model_score, callback.kth_value = None, worst
            if isinstance(callback, BestCheckpoint):
                callback.best_tie = None
        elif isinstance(callback, EarlyStopping):
            callback.wait_count = 0
            callback.best_score = torch.tensor(torch.inf if callback.mode == "min" else -torch.inf)
