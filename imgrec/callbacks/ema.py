"""The exponential moving average of the weights: what is validated, kept as best, tested and shared."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from imgrec.compress.pruning.widths import select
from imgrec.errors import UserError
from imgrec.optim.averaging import ema_decay, ema_update_, wide_copy
from imgrec.tasks.callback import Callback
from imgrec.utils.checks import at_least_one


class EMA(Callback):
    """Averages the weights over the steps of training; validation, the best checkpoint and the model are the average.

    A checkpoint holds the average as its ``state_dict``, as Lightning's ``EMAWeightAveraging`` has it, and beside it,
    as ``current_model_state``, the weights of the step, which a resumed run goes on with, exactly. ``trainer.test`` and
    ``load_from_checkpoint`` therefore take the average. Until ``start`` there is no average, and everything is as
    without this callback.

    Args:
        decay: how much of the average stays at each optimizer step.
        warmup: begin with a smaller decay, that grows as :func:`imgrec.optim.averaging.ema_decay` says.
        start: the fraction of training after which the average begins, with the weights of that step.
        every_n_steps: update the average only every so many steps, with the decay of as many: cheaper, and about the
            same average.
        buffers: ``average`` the running statistics of batch norm like the weights, or ``copy`` the latest.

    Raises:
        UserError: a number that cannot be; a strategy that shards the weights.

    Example::

        trainer:
          callbacks:
            - {class_path: EMA, decay: 0.999}

    Source: Polyak and Juditsky 1992, "Acceleration of stochastic approximation by averaging", SIAM Journal on Control
    and Optimization 30, 10.1137/0330046; Tarvainen and Valpola 2017, "Mean teachers are better role models",
    arXiv 1703.01780.
    """

    averages_weights = True

    def __init__(
        self,
        decay: float = 0.999,
        warmup: bool = True,
        start: float = 0.0,
        every_n_steps: int = 1,
        buffers: Literal["average", "copy"] = "average",
    ) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"EMA: `decay` is from 0 to below 1, got {decay}.")
        if not 0 <= start < 1:
            raise UserError(f"EMA: `start` is a fraction of training, from 0 to below 1, got {start}.")
        at_least_one("EMA", every_n_steps=every_n_steps)
        if buffers not in ("average", "copy"):
            raise UserError(f'EMA: `buffers` is average or copy, got "{buffers}".')
        self.decay = decay
        self.warmup = warmup
        self.start = start
        self.every_n_steps = every_n_steps
        self.buffers = buffers
        self._first = 0
        self._step = 0
        self._updates = 0
        self._averages: dict[str, Tensor] | None = None
        self._current: dict[str, Tensor] | None = None  # while the average is in the place of the weights
        self._tensors: _Tensors | None = None

    # ---------------------------------------------------------------- training

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be averaged here."""
        if stage != TrainerFn.FITTING:
            return
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                f"trainer.callbacks: EMA needs all weights in every process, and {type(trainer.strategy).__name__} "
                "shards them; take strategy: ddp, or leave EMA out"
            )
        self._averages = self._current = None
        self._step = self._updates = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out when the average begins; a resumed one goes to the device."""
        steps = trainer.estimated_stepping_batches
        if self.start and not math.isfinite(steps):
            raise UserError("EMA: `start` is a fraction of training: set trainer.max_epochs or trainer.max_steps.")
        self._first = math.ceil(self.start * steps) if self.start else 0
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
        """Take in the weights of an optimizer step."""
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
        """The averages by the names of the module's state dict, to be changed in place; none before they begin."""
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

    # ---------------------------------------------------------------- the average in the place of the weights

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the average."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._put_average()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the weights; checkpoints are written after this."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._put_weights()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the module."""
        self._put_average()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of what is no longer needed: all checkpoints are written."""
        self._averages = self._current = self._tensors = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the weights in the module."""
        self._put_weights()

    @torch.no_grad()
    def _put_average(self) -> None:
        if self._averages is not None and self._tensors is not None and self._current is None:
            self._current = {name: value.detach().clone() for name, value in self._tensors}
            for name, value in self._tensors:
                value.copy_(self._averages[name])

    @torch.no_grad()
    def _put_weights(self) -> None:
        if self._current is not None and self._tensors is not None:
            for name, value in self._tensors:
                value.copy_(self._current[name])
            self._current = None

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Where the average stands; the average itself is the checkpoint's ``state_dict``."""
        return {"step": self._step, "updates": self._updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._step, self._updates = state_dict["step"], state_dict["updates"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the average into the checkpoint, and the weights beside it."""
        self._update(trainer)  # a callback that stands before this one may write in the middle of a step's end
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
        """Resume with the weights of the step; an evaluation keeps the average."""
        if trainer.state.fn == TrainerFn.FITTING and "current_model_state" in checkpoint:
            pl_module.load_state_dict(checkpoint["current_model_state"])
            self._averages = dict(checkpoint["state_dict"])


class _Tensors:
    """The parameters, then the persistent buffers, of a module by their names in its state dict, as they are now."""

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
        """The tensors alone, in the same order; quicker."""
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
