"""Base class of callbacks that freeze parts of a model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BaseFinetuning
from pytorch_lightning.strategies import FSDPStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from imgrec.callbacks.compression.model_surgery import unwrap_ddp
from imgrec.callbacks.compression.pruning import Pruning
from imgrec.callbacks.compression.qat import QAT
from imgrec.callbacks.compression.structured_pruning import StructuredPruning
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.errors import UserError
from imgrec.models.freezing import NormPolicy, find_frozen_norms, parse_norm_policy, refuse_all_frozen, set_frozen
from imgrec.optim.optimizers.sgd import unfuse
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback, imgrec_callbacks


class Freezing(Callback, ABC):
    """Base class of callbacks that disable the gradients of a part of the model until a position of training.

    The groups of the optimizer contain all parameters from the start, and frozen parameters are skipped. Unfrozen
    parameters have the learning rate and weight decay of their group, and no state of the optimizer is lost. The frozen
    part depends on the position only, and a resumed run is exact.

    Several freezing callbacks freeze the union of their parts. The first one in the trainer acts for all.

    Args:
        batch_norm: Mode of batch norm in a frozen part.
    """

    runs_in_short_runs = True

    def __init__(self, batch_norm: NormPolicy) -> None:
        self.batch_norm = parse_norm_policy(batch_norm, f"{type(self).__name__}: `batch_norm`")
        self._reset()

    def _reset(self) -> None:
        self.stages: list[list[str]] = []
        """Names of the parameters that are unfrozen together, in order."""
        self._over = False
        self._checked = False
        # used by the first freezing callback only, which acts for all
        self._trainable: frozenset[str] = frozenset()
        self._now: tuple[int, ...] | None = None
        self._frozen: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    @abstractmethod
    def find_stages(self, model: nn.Module) -> list[list[str]]:
        """Return the names of the parameters that are unfrozen together, in order."""

    @abstractmethod
    def plan(self, trainer: pl.Trainer) -> None:
        """Plan the positions of the stages.

        Raises:
            UserError: If a position is invalid.
        """

    @abstractmethod
    def thawed(self, trainer: pl.Trainer) -> int:
        """Return the number of unfrozen stages at the position of the next step."""

    @abstractmethod
    def last_thaw(self, trainer: pl.Trainer) -> float:
        """Return the fraction of training after which no parameter is frozen, or 1 if some stay frozen."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the strategy and the other callbacks."""
        if stage != TrainerFn.FITTING:
            return
        self._reset()
        if isinstance(trainer.strategy, FSDPStrategy):
            raise UserError(
                f"trainer.strategy: expected a strategy that keeps single parameters, which {type(self).__name__} "
                f"requires, got {type(trainer.strategy).__name__}. Use ddp or fsdp2."
            )
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, BaseFinetuning):
                raise UserError(
                    f"trainer.callbacks: expected {type(self).__name__} alone, got {type(each).__name__} as "
                    "well, which does not resume."
                )

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select the parameters.

        Raises:
            UserError: If a pattern matches nothing, if no parameter is left to train, or if a position is invalid.
        """
        model = network_of(pl_module)
        self.stages = [] if self._over else self.find_stages(model)  # names may have changed since
        self.plan(trainer)
        if not self._over:
            self._reject_model_changes(trainer)
        self._checked = True
        freezing = _freezing_callbacks(trainer)
        if freezing[-1] is self and len(freezing) > 1:
            together = {name for each in freezing for stage in each.stages for name in stage}
            kinds = " and ".join(dict.fromkeys(type(each).__name__ for each in freezing))
            refuse_all_frozen(model, together, f"trainer.callbacks: {kinds} together")

    def _reject_model_changes(self, trainer: pl.Trainer) -> None:
        ends = self.last_thaw(trainer)
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            begins = _start_of_model_changes(each)
            if begins is not None and begins <= ends:
                until = "the end" if ends == 1 else f"{ends:g}"
                raise UserError(
                    f"trainer.callbacks: expected {type(each).__name__} to start after {type(self).__name__} unfroze "
                    f"the model at {until}, got {begins:g} of training."
                )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select the parameters, if the trainer has no run recorder."""
        if not self._checked:
            self.validate_model(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze the parameters, after the optimizer was created."""
        for optimizer in trainer.optimizers:
            unfuse(optimizer)
        freezing = _freezing_callbacks(trainer)
        if freezing[0] is self:
            model = network_of(pl_module)
            self._trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
            self._apply_position(trainer, pl_module, freezing)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Unfreeze parameters between two optimizer steps if it is due. Keep frozen batch norms in evaluation mode."""
        freezing = _freezing_callbacks(trainer)
        if freezing[0] is not self:
            return
        if self._now != tuple(each.thawed(trainer) for each in freezing):
            self._apply_position(trainer, pl_module, freezing)
            for callback in imgrec_callbacks(trainer):
                callback.on_model_changed(
                    trainer, pl_module
                )  # earlier steps cannot be repeated with other frozen parts
        for norm in self._norms:
            if norm.training:
                norm.training = False

    def _apply_position(self, trainer: pl.Trainer, pl_module: pl.LightningModule, freezing: Sequence[Freezing]) -> None:
        model = network_of(pl_module)
        self._now = tuple(each.thawed(trainer) for each in freezing)
        kept = [
            (each, [name for stage in each.stages[thawed:] for name in stage])
            for each, thawed in zip(freezing, self._now, strict=True)
        ]
        for each, names in kept:
            each._over = not names
        frozen = {name for _, names in kept for name in names}
        wrapped = unwrap_ddp(trainer, pl_module)
        set_frozen(model, self._trainable, frozen)
        self._frozen = [parameter for name, parameter in model.named_parameters() if name in frozen]
        if wrapped is not None:
            wrapped.configure_ddp()
        held = {
            norm for each, names in kept if each.batch_norm == "frozen" for norm in find_frozen_norms(model, set(names))
        }
        for norm in self._norms:
            if norm not in held:
                norm.training = True
        self._norms = list(held)
        if getattr(pl_module, "compiling", False) is not False:
            torch.compiler.reset()
        trainer.print(f"step {trainer.global_step}: {_describe(model, frozen)}")

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Release the parameters. The model changes only after all were unfrozen."""
        self._release()
        self.stages = [[] for _ in self.stages]
        self._trainable = frozenset()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the fraction of trained parameters as ``train/trainable``."""
        if _freezing_callbacks(trainer)[0] is self:
            counts = [(p.numel(), p.requires_grad) for p in network_of(pl_module).parameters()]
            pl_module.log("train/trainable", sum(n for n, trains in counts if trains) / sum(n for n, _ in counts))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the number of frozen parameters into the summary."""
        folder = run_folder(trainer)
        if folder is not None and _freezing_callbacks(trainer)[0] is self and self._trainable:
            parameters = dict(network_of(pl_module).named_parameters())
            frozen = sum(parameters[name].numel() for name in self._trainable if not parameters[name].requires_grad)
            total = sum(parameter.numel() for parameter in parameters.values())
            update_summary(folder, {"frozen": {"parameters": frozen, "of": total}})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the gradients of all parameters."""
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the gradients of all parameters."""
        self._release()

    def _release(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for norm in self._norms:
            norm.training = True
        self._frozen, self._norms = [], []

    def state_dict(self) -> dict[str, Any]:
        """Return whether all parameters are unfrozen."""
        return {"over": self._over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self._over = state_dict["over"]


def network_of(pl_module: pl.LightningModule) -> nn.Module:
    """Return the ``model`` of a task, or the module itself without one."""
    model = getattr(pl_module, "model", None)
    return model if isinstance(model, nn.Module) else pl_module


def _freezing_callbacks(trainer: pl.Trainer) -> list[Freezing]:
    return [each for each in trainer.callbacks if isinstance(each, Freezing)]  # type: ignore[attr-defined]


def _start_of_model_changes(callback: pl.Callback) -> float | None:
    """Return the fraction of training from which a callback prunes or quantizes parameters, or None."""
    if isinstance(callback, QAT):
        return callback.start
    if isinstance(callback, StructuredPruning):
        return callback.rounds.start
    if isinstance(callback, Pruning):
        return 0.0 if callback.ticket else callback.config.start
    return None


def _describe(model: nn.Module, frozen: set[str]) -> str:
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    left = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if not frozen:
        return f"no parameter is frozen, {left:,} are trained"
    return f"{len(frozen)} of {len(sizes)} tensors are frozen, {left:,} of {total:,} parameters are trained"
