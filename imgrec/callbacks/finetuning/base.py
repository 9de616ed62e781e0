"""What callbacks that freeze parts of a network share: who decides when, and what happens between two steps then."""

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
from imgrec.models.freezing import NormPolicy, held_norms, norm_policy, refuse_all_frozen, set_frozen
from imgrec.optim.optimizers.sgd import unfuse
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback, imgrec_callbacks


class Freezing(Callback, ABC):
    """Part of the network has no gradient until a position of training; subclasses say which part, and when.

    All parameters are in the optimizer's groups from the start, and one that is frozen is passed over: what thaws has
    its learning rate, its weight decay and its place in the schedule, and no state of the optimizer is lost or made up.
    What is frozen depends on the position alone, so a resumed run goes on exactly.

    Several of them together freeze what any of them does; the first of them in the trainer acts for all.

    Args:
        batch_norm: what batch norm does in a part that is frozen.
    """

    runs_in_short_runs = True

    def __init__(self, batch_norm: NormPolicy) -> None:
        self.batch_norm = norm_policy(batch_norm, f"{type(self).__name__}: `batch_norm`")
        self._forget()

    def _forget(self) -> None:
        self.stages: list[list[str]] = []
        """The names of the parameters that thaw together, in the order in which they do."""
        self._over = False
        self._checked = False
        # of the first of them, which acts for all
        self._trainable: frozenset[str] = frozenset()
        self._now: tuple[int, ...] | None = None
        self._frozen: list[nn.Parameter] = []
        self._norms: list[nn.Module] = []

    # ---------------------------------------------------------------- what a subclass says

    @abstractmethod
    def find_stages(self, model: nn.Module) -> list[list[str]]:
        """The names of the parameters that thaw together, in the order in which they do."""

    @abstractmethod
    def plan(self, trainer: pl.Trainer) -> None:
        """Find out when the stages thaw; raise :class:`UserError` where that cannot be."""

    @abstractmethod
    def thawed(self, trainer: pl.Trainer) -> int:
        """How many of the stages are thawed at the position of the next step."""

    @abstractmethod
    def last_thaw(self, trainer: pl.Trainer) -> float:
        """The fraction of training at which nothing is frozen any more, at the latest; 1 where something stays so."""

    # ---------------------------------------------------------------- begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what does not go together."""
        if stage != TrainerFn.FITTING:
            return
        self._forget()
        if isinstance(trainer.strategy, FSDPStrategy):
            raise UserError(
                f"trainer.callbacks: {type(self).__name__} freezes single parameters, and "
                f"{type(trainer.strategy).__name__} flattens them; take strategy: ddp or fsdp2"
            )
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, BaseFinetuning):
                raise UserError(
                    f"trainer.callbacks: {type(each).__name__} freezes and unfreezes, too, and a resumed run does not "
                    f"go on with it; take {type(self).__name__} alone"
                )

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the parameters; called before anything is written.

        Raises:
            UserError: a pattern matches nothing, or nothing is left to train; a position that cannot be.
        """
        model = network_of(pl_module)
        self.stages = [] if self._over else self.find_stages(model)  # what came after may have changed the names
        self.plan(trainer)
        if not self._over:
            self._refuse_surgery(trainer)
        self._checked = True
        holders = _holders(trainer)
        if holders[-1] is self and len(holders) > 1:
            together = {name for each in holders for stage in each.stages for name in stage}
            kinds = " and ".join(dict.fromkeys(type(each).__name__ for each in holders))
            refuse_all_frozen(model, together, f"trainer.callbacks: {kinds} together")

    def _refuse_surgery(self, trainer: pl.Trainer) -> None:
        ends = self.last_thaw(trainer)
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            begins = _changes_the_network(each)
            if begins is not None and begins <= ends:
                until = "the end" if ends == 1 else f"{ends:g}"
                raise UserError(
                    f"trainer.callbacks: {type(each).__name__} changes the network from {begins:g} of training on, and "
                    f"{type(self).__name__} keeps part of it as it is until {until}: let it begin after that, or leave "
                    "one of them out"
                )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the parameters, where the run's recorder has not asked yet."""
        if not self._checked:
            self.validate_model(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Freeze; the optimizer has its groups already."""
        for optimizer in trainer.optimizers:
            unfuse(optimizer)
        holders = _holders(trainer)
        if holders[0] is self:
            model = network_of(pl_module)
            self._trainable = frozenset(name for name, p in model.named_parameters() if p.requires_grad)
            self._take_position(trainer, pl_module, holders)

    # ---------------------------------------------------------------- the steps

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: thaw, where it is time to; keep frozen batch norms out of training."""
        holders = _holders(trainer)
        if holders[0] is not self:
            return
        if self._now != tuple(each.thawed(trainer) for each in holders):
            self._take_position(trainer, pl_module, holders)
            for callback in imgrec_callbacks(trainer):
                callback.on_model_changed(
                    trainer, pl_module
                )  # earlier steps cannot be repeated with other frozen parts
        for norm in self._norms:
            if norm.training:
                norm.training = False

    def _take_position(self, trainer: pl.Trainer, pl_module: pl.LightningModule, holders: Sequence[Freezing]) -> None:
        model = network_of(pl_module)
        self._now = tuple(each.thawed(trainer) for each in holders)
        kept = [
            (each, [name for stage in each.stages[thawed:] for name in stage])
            for each, thawed in zip(holders, self._now, strict=True)
        ]
        for each, names in kept:
            each._over = not names
        frozen = {name for _, names in kept for name in names}
        wrapped = unwrap_ddp(trainer, pl_module)
        set_frozen(model, self._trainable, frozen)
        self._frozen = [parameter for name, parameter in model.named_parameters() if name in frozen]
        if wrapped is not None:
            wrapped.configure_ddp()
        held = {norm for each, names in kept if each.batch_norm == "frozen" for norm in held_norms(model, set(names))}
        for norm in self._norms:
            if norm not in held:
                norm.training = True
        self._norms = list(held)
        if getattr(pl_module, "compiling", False) is not False:
            torch.compiler.reset()
        trainer.print(f"step {trainer.global_step}: {_said(model, frozen)}")

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Let go of a network that has just been operated on, which it is only when nothing is frozen any more."""
        self._release()
        self.stages = [[] for _ in self.stages]
        self._trainable = frozenset()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log which share of the network trains."""
        if _holders(trainer)[0] is self:
            counts = [(p.numel(), p.requires_grad) for p in network_of(pl_module).parameters()]
            pl_module.log("train/trainable", sum(n for n, trains in counts if trains) / sum(n for n, _ in counts))

    # ---------------------------------------------------------------- the end

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say in the summary what was frozen until the end."""
        folder = run_folder(trainer)
        if folder is not None and _holders(trainer)[0] is self and self._trainable:
            parameters = dict(network_of(pl_module).named_parameters())
            frozen = sum(parameters[name].numel() for name in self._trainable if not parameters[name].requires_grad)
            total = sum(parameter.numel() for parameter in parameters.values())
            update_summary(folder, {"frozen": {"parameters": frozen, "of": total}})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the network as it was given."""
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the network as it was given."""
        self._release()

    def _release(self) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        for norm in self._norms:
            norm.training = True
        self._frozen, self._norms = [], []

    # ---------------------------------------------------------------- the state

    def state_dict(self) -> dict[str, Any]:
        """Whether nothing is frozen any more."""
        return {"over": self._over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self._over = state_dict["over"]


def network_of(pl_module: pl.LightningModule) -> nn.Module:
    """The network of a task, or a whole module that has none as ``model``."""
    model = getattr(pl_module, "model", None)
    return model if isinstance(model, nn.Module) else pl_module


def _holders(trainer: pl.Trainer) -> list[Freezing]:
    return [each for each in trainer.callbacks if isinstance(each, Freezing)]  # type: ignore[attr-defined]


def _changes_the_network(callback: pl.Callback) -> float | None:
    """From which fraction of training on a callback cuts, masks or rounds what may be frozen."""
    if isinstance(callback, QAT):
        return callback.start
    if isinstance(callback, StructuredPruning):
        return callback.rounds.start
    if isinstance(callback, Pruning):
        return 0.0 if callback.ticket else callback.plan.start
    return None


def _said(model: nn.Module, frozen: set[str]) -> str:
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    total = sum(sizes.values())
    left = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if not frozen:
        return f"nothing is frozen any more, {left:,} parameters train"
    return f"{len(frozen)} of {len(sizes)} tensors are frozen, {left:,} of {total:,} parameters train"
