"""Exponential moving average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from imgrec.callbacks.compatibility import count_steps, require_whole_weights
from imgrec.compress.pruning.widths import select
from imgrec.errors import UserError
from imgrec.optim.averaging import ema_decay, ema_update_, wide_copy
from imgrec.tasks.callback import Callback
from imgrec.utils.ranges import PositiveInt, RightOpenUnitInterval, check_ranges


class EMA(Callback):
    """Exponential moving average of the weights, used in validation, in the test and in the shared model.

    A checkpoint contains the average as ``state_dict``, as with ``EMAWeightAveraging`` of Lightning. It contains the
    weights of the step as ``current_model_state``, and a resumed run is exact. ``trainer.test`` and
    ``load_from_checkpoint`` therefore use the average. Before ``start`` there is no average.

    Args:
        decay: Fraction of the average that stays at every optimizer step. Defaults to 0.999.
        warmup: Start with a smaller decay, see :func:`imgrec.optim.averaging.ema_decay`. Defaults to True.
        start: Fraction of training after which the average starts, with the weights of that step. Defaults to 0.
        every_n_steps: Number of optimizer steps between two updates, which then use ``decay ** every_n_steps``. A
            larger value is cheaper, with about the same average. Defaults to 1.
        buffers: ``average`` or ``copy`` the running statistics of batch norm. Defaults to ``average``.

    Raises:
        UserError: If an argument is out of range, or if the strategy shards the weights.

    Example::

        trainer:
          callbacks:
            - {class_path: EMA, decay: 0.999}

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging", SIAM Journal on Control
    and Optimization 30, 10.1137/0330046; Tarvainen and Valpola 2017, "Mean teachers are better role models",
    arXiv 1703.01780.
    """

    averages_weights = True

    @check_ranges
    def __init__(
        self,
        decay: RightOpenUnitInterval = 0.999,
        warmup: bool = True,
        start: RightOpenUnitInterval = 0.0,
        every_n_steps: PositiveInt = 1,
        buffers: Literal["average", "copy"] = "average",
    ) -> None:
        if buffers not in ("average", "copy"):
            raise UserError(f'EMA.buffers: expected "average" or "copy", got "{buffers}".')
        self.decay = decay
        self.warmup = warmup
        self.start = start
        self.every_n_steps = every_n_steps
        self.buffers = buffers
        self._first = 0
        self._step = 0
        self._updates = 0
        self._averages: dict[str, Tensor] | None = None
        self._current: dict[str, Tensor] | None = None  # set while the module has the average instead
        self._tensors: _Tensors | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the strategy."""
        if stage != TrainerFn.FITTING:
            return
        require_whole_weights(trainer, "EMA")
        self._averages = self._current = None
        self._step = self._updates = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compute the first step of the average. Move a resumed average to the device."""
        self._first = math.ceil(self.start * count_steps(trainer, "EMA.start")) if self.start else 0
        self._tensors = _Tensors(pl_module)
        if self._averages is not None:
            now = dict(self._tensors)
            loaded = self._averages
            self._averages = {name: wide_copy(value) for name, value in now.items()}
            for name, average in self._averages.items():
                average.copy_(loaded[name])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average after an optimizer step."""
        self._update(trainer)

    def _update(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if step <= self._step or step < self._first or self._tensors is None or self._current is not None:
            return
        self._step = step
        if self._averages is None:
            self._averages = {name: wide_copy(value) for name, value in self._tensors}
        elif (step - self._first) % self.every_n_steps == 0:
            decay = ema_decay(self._updates * self.every_n_steps, self.decay, self.warmup)
            averages, values = list(self._averages.values()), self._tensors.values()
            if self.buffers == "copy":
                first = len(values) - len(self._tensors.buffers)
                torch._foreach_copy_(averages[first:], values[first:])
                averages, values = averages[:first], values[:first]
            ema_update_(averages, values, decay**self.every_n_steps)
            self._updates += 1

    @property
    def averages(self) -> dict[str, Tensor]:
        """The averages by name in the state dict of the module. They may be changed in place."""
        return self._averages or {}

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Prune the average as the weights. New tensors start with their present value."""
        if self._tensors is None:
            return
        self._tensors = _Tensors(pl_module)
        if self._averages is not None:
            old = {
                name: select(value, kept_indices[name]) if name in kept_indices else value
                for name, value in self._averages.items()
            }
            self._averages = {name: old[name] if name in old else wide_copy(value) for name, value in self._tensors}

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap to the average for validation."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap_to_average()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Swap to the weights. Checkpoints are written afterwards."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._swap_to_weights()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module."""
        self._swap_to_average()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Release the average and the weights, after all checkpoints were written."""
        self._averages = self._current = self._tensors = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the weights in the module."""
        self._swap_to_weights()

    @torch.no_grad()
    def _swap_to_average(self) -> None:
        if self._averages is not None and self._tensors is not None and self._current is None:
            self._current = {name: value.detach().clone() for name, value in self._tensors}
            for name, value in self._tensors:
                value.copy_(self._averages[name])

    @torch.no_grad()
    def _swap_to_weights(self) -> None:
        if self._current is not None and self._tensors is not None:
            for name, value in self._tensors:
                value.copy_(self._current[name])
            self._current = None

    def state_dict(self) -> dict[str, Any]:
        """Return the counters. The average is the ``state_dict`` of the checkpoint."""
        return {"step": self._step, "updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the counters."""
        self._step, self._updates = state_dict["step"], state_dict["updates"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as ``state_dict`` and the weights as ``current_model_state``."""
        self._update(trainer)  # an earlier callback may write a checkpoint before this callback's on_train_batch_end
        if self._averages is None:
            return
        key = self.state_key
        if key in checkpoint.get("callbacks", {}):
            checkpoint["callbacks"][key] = self.state_dict()
        weights = checkpoint["state_dict"]
        checkpoint["current_model_state"] = weights | (self._current or {})
        checkpoint["state_dict"] = {name: self._averages.get(name, value) for name, value in weights.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Resume with the weights of the step. An evaluation keeps the average."""
        if trainer.state.fn == TrainerFn.FITTING and "current_model_state" in checkpoint:
            pl_module.load_state_dict(checkpoint["current_model_state"])
            self._averages = dict(checkpoint["state_dict"])


class _Tensors:
    """Parameters, then persistent buffers, of a module, by name in its state dict."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._parameters = list(module.named_parameters(remove_duplicate=False))
        self._owners = [
            (f"{path}.{name}" if path else name, owner, name)
            for path, owner in module.named_modules(remove_duplicate=False)
            for name, buffer in owner._buffers.items()
            if buffer is not None and name not in owner._non_persistent_buffers_set
        ]
        self.buffers = [name for name, _, _ in self._owners]
        self._fixed: list[Tensor] = [parameter for _, parameter in self._parameters]

    def values(self) -> list[Tensor]:
        """Return the tensors without names, in the same order. It is faster than iteration."""
        return [
            *self._fixed,
            *(buffer for _, owner, own in self._owners if (buffer := owner._buffers[own]) is not None),
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._parameters
        for name, owner, own in self._owners:
            buffer = owner._buffers[own]
            assert buffer is not None
            yield name, buffer
