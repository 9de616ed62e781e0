"""The base class of callbacks with the hooks that imgrec calls in addition to those of Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytorch_lightning as pl
from torch import Tensor


class Callback(pl.Callback):
    """Base class of callbacks with hooks for model changes, second forward passes and replayed steps.

    Every hook does nothing by default. A callback that needs only hooks of Lightning can subclass
    ``pytorch_lightning.Callback`` instead. Order of the hooks in a training:

    1. ``setup``.
    2. ``validate_model``, before the run folder is created.
    3. ``on_fit_start``, ``on_train_start``.
    4. For each batch:

       1. ``on_train_batch_start``. A callback that replaces or prunes the model does so here, at the first batch of an
          optimizer step. Then ``on_weights_pruned`` of every callback is called, then ``on_model_changed`` of every
          callback.
       2. The forward pass. With a sharpness-aware optimizer (SAM), a backward pass, the perturbation of the weights,
          ``on_sam_second_pass`` and a second forward pass follow.
       3. ``on_before_zero_grad``, ``on_before_backward``, the backward pass, ``on_after_backward``.
       4. At the last batch of an optimizer step, ``on_before_optimizer_step`` and the step.
       5. ``on_train_batch_end``.
    5. ``on_train_end``, ``on_fit_end``, ``teardown``.

    ``rewind`` is called only after the loss or the weights became NaN or infinite, when :class:`imgrec.NaNGuard`
    repeats the last steps.

    Attributes:
        runs_in_short_runs: True if the callback changes the input or the weights of a training step. Such callbacks
            also run in `imgrec lr-find` and `imgrec batch-find`. Defaults to False.
        averages_weights: True if the callback evaluates an average of the weights. An optimizer that also averages
            then leaves the evaluation to the callback, or is rejected. Defaults to False.

    Example:
        >>> import torch
        >>> from imgrec import UserError
        >>> class ParameterBudget(Callback):
        ...     def __init__(self, limit: int) -> None:
        ...         self.limit = limit
        ...     def validate_model(self, trainer, pl_module):
        ...         count = sum(parameter.numel() for parameter in pl_module.parameters())
        ...         if count > self.limit:
        ...             raise UserError(f"limit: expected a model of at most {self.limit} parameters, got {count}.")
        >>> module = pl.LightningModule()
        >>> module.layer = torch.nn.Linear(3, 2)
        >>> ParameterBudget(limit=5).validate_model(pl.Trainer(logger=False, enable_checkpointing=False), module)
        Traceback (most recent call last):
        imgrec.errors.UserError: limit: expected a model of at most 5 parameters, got 8.
    """

    runs_in_short_runs: ClassVar[bool] = False
    averages_weights: ClassVar[bool] = False

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the model before anything is written.

        Without a :class:`imgrec.RunRecorder` this hook is not called. Call it from ``on_fit_start`` if the callback
        depends on it.

        Args:
            trainer: Trainer with its callbacks and strategy.
            pl_module: Module on which the training is about to start.

        Raises:
            UserError: If the callback cannot work with this model.
        """

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Adapt tensors of the shape of the weights to a model that lost channels or blocks.

        Args:
            pl_module: Module after the change.
            kept_indices: Int64 indices into the flattened previous tensor, in the new shape, by name in the state dict.
                Only tensors whose shape changed are present.
        """

    def on_model_changed(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Drop or renew everything that was computed with the previous model.

        It is called between two optimizer steps, after ``on_weights_pruned`` of all callbacks.

        Args:
            trainer: Trainer at the first batch of an optimizer step.
            pl_module: Module after the change.
        """

    def on_sam_second_pass(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Correct the perturbed weights before the second forward pass of a sharpness-aware optimizer.

        Args:
            trainer: Trainer in a training step.
            pl_module: Module with the perturbed weights.
        """

    def rewind(self, state_dict: dict[str, Any]) -> None:
        """Return at once to the state of an earlier step, because the steps since then are repeated.

        Args:
            state_dict: Earlier result of :meth:`state_dict`.
        """


def imgrec_callbacks(trainer: pl.Trainer) -> list[Callback]:
    """Return the callbacks of ``trainer`` that have the hooks of :class:`Callback`, in their order."""
    return [each for each in trainer.callbacks if isinstance(each, Callback)]  # type: ignore[attr-defined]
