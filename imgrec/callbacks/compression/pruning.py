"""Pruning of single weights in training: masks that rise to a sparsity, and hold in all that is validated and kept."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imgrec.callbacks.compression.lottery_ticket import Ticket, copy_of
from imgrec.callbacks.compression.model_surgery import reset_best
from imgrec.callbacks.compression.structured_pruning import StructuredPruning
from imgrec.callbacks.ema import EMA
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.compress.pruning.mask_config import MaskPlan
from imgrec.compress.pruning.masked_model import Masking
from imgrec.compress.pruning.masks import Scope, first_and_last, fit_for, sparsity_of
from imgrec.compress.pruning.schedule import Decisions, Shape, sparsity_at
from imgrec.compress.pruning.weight_importance import Criterion
from imgrec.errors import TrainingFailedError, UserError
from imgrec.optim.optimizers.averaged import find_eval_weights_optimizer
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback
from imgrec.utils.seeding import run_seed

logger = logging.getLogger(__name__)
inform = rank_zero_only(logger.info)
warn = rank_zero_only(logger.warning)


class Pruning(Callback):
    """Sets more and more single weights to zero while the network trains, and keeps them there.

    Masked weights are exactly zero after every optimizer step: in validation, in checkpoints, in the average of
    :class:`EMA`, in the model folder. Masks, schedule and scores are in the checkpoint, and a resumed run goes on with
    them, exactly. The best checkpoint and early stopping begin anew whenever more weights were masked, so that what is
    kept as best has the sparsity of the end. ``train/sparsity`` in metrics.csv is the share of zeros among the weights
    that may be pruned. Zeros that are stored and multiplied save neither time nor memory.

    Criteria: ``magnitude``; ``taylor``, the squared change of the loss to first order; ``snip``, its size, before the
    first step (where a network's residual branches begin at zero, as timm's do, no gradient reaches them then: take
    ``start: 0.01``); ``movement``, how far training moves a weight away from zero, for fine-tuning; ``random``, the
    control. Scores see the gradients of an optimizer step: accumulated, the same in all processes, unscaled, not
    clipped. Masked weights have no gradient, so they count in no norm that clipping looks at. Only under ``movement``
    their gradients still reach their scores, straight through the mask, and a weight may come back with its old value.

    Args:
        sparsity: the share of zeros in the end; 0.9 where no pattern is given.
        criterion: which weights matter.
        scope: ``global`` compares the weights of all layers, ``layer`` prunes each by the same share.
        pattern: ``2:4`` keeps two of every four inputs, as sparse tensor cores read them; layers whose inputs are no
            multiple of four are left out.
        schedule: ``cubic`` (first fast, then slowly), ``linear``, or ``one_shot``, at ``start``; by default cubic, and
            at once for snip and a pattern.
        start: the fraction of training at which pruning begins; by default 0 for snip, else 0.1.
        end: the fraction at which the sparsity is reached; by default 0.6.
        every_n_steps: the optimizer steps between two decisions; by default so many that there are about 50.
        score_steps: the gradients of how many steps a decision rests on: by default 1 for snip and 10 for taylor.
            Movement takes all since the beginning.
        include: patterns of layer names: ``backbone.*.conv2``. By default all convolutions and linear layers but the
            first one and the one that gives the logits, which are small and matter most.
        exclude: patterns of layers to leave dense, in the place of the first and the last one; ``[]`` prunes them, too.
        rewind_to: keep the weights of this fraction of training, for lottery tickets.
        ticket: a run that kept such weights: begin with them, masked by the magnitude of its last weights, at once.

    Raises:
        UserError: a number that cannot be, a name that matches no layer, no layer left to prune; a strategy that shards
            the weights; an average of weights other than EMA's.
        TrainingFailedError: while training; the weights are no numbers any more.

    Example::

        trainer:
          callbacks:
            - {class_path: Pruning, sparsity: 0.9, criterion: magnitude, end: 0.6}

    Iterative magnitude pruning with rewinding is a sequence of runs, each an ordinary one, the first of them dense. The
    weights are rewound; the schedule of the learning rate begins anew::

        {class_path: Pruning, sparsity: 0, rewind_to: 0.02}
        {class_path: Pruning, sparsity: 0.5, ticket: runs/<first>}
        {class_path: Pruning, sparsity: 0.75, ticket: runs/<second>}

    Source: Zhu and Gupta 2017, "To prune, or not to prune", arXiv 1710.01878; Lee et al. 2019, "SNIP", arXiv
    1810.02340; Molchanov et al. 2019, "Importance estimation for neural network pruning", arXiv 1906.10771; Sanh et al.
    2020, "Movement pruning", arXiv 2005.07683; Mishra et al. 2021, "Accelerating sparse deep neural networks", arXiv
    2104.08378; Frankle et al. 2020, "Linear mode connectivity and the lottery ticket hypothesis", arXiv 1912.05671.
    """

    def __init__(
        self,
        sparsity: float | None = None,
        criterion: Criterion = "magnitude",
        scope: Scope = "global",
        pattern: str | None = None,
        schedule: Shape | None = None,
        start: float | None = None,
        end: float | None = None,
        every_n_steps: int | None = None,
        score_steps: int | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        rewind_to: float | None = None,
        ticket: str | None = None,
    ) -> None:
        if rewind_to is not None and not 0 <= rewind_to < 1:
            raise UserError(f"Pruning: `rewind_to` is a fraction of training, from 0 to below 1, got {rewind_to}.")
        self.plan = MaskPlan(
            sparsity=sparsity,
            criterion=criterion,
            scope=scope,
            pattern=pattern,
            schedule=schedule,
            start=start,
            end=end,
            every_n_steps=every_n_steps,
            score_steps=score_steps,
            include=include,
            exclude=exclude,
        )
        if sparsity == 0 and rewind_to is None:
            raise UserError(
                "Pruning: `sparsity` is above 0 and below 1, got 0, which prunes nothing: it is for the first run of "
                "lottery tickets, together with `rewind_to`."
            )
        if ticket is not None:
            if criterion not in ("magnitude", "random"):
                raise UserError(
                    f"Pruning: a ticket is masked by magnitude, or as a control random, not by {criterion}."
                )
            for name, value in {"schedule": schedule, "start": start, "end": end, "rewind_to": rewind_to}.items():
                if value is not None:
                    raise UserError(f"Pruning: a ticket is masked before the first step; leave out `{name}: {value}`.")
        self.rewind_to = rewind_to
        self.ticket = ticket
        self._forget()

    def _forget(self) -> None:
        self._masking: Masking | None = None
        self._decisions: Decisions | None = None
        self._decided = -1
        self._gathered = -1
        self._rewind: dict[str, Any] = {}
        self._rewind_step: int | None = None
        self._loaded: dict[str, Any] | None = None
        self._given: Ticket | None = None
        self._trained: list[nn.Parameter] = []
        self._hooks: list[RemovableHandle] = []
        self._collapsed: set[str] = set()

    # ---------------------------------------------------------------- begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be pruned here, or what would fill masked weights again."""
        if stage != TrainerFn.FITTING:
            return
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                f"trainer.callbacks: Pruning compares all weights in every process, and "
                f"{type(trainer.strategy).__name__} shards them; take strategy: ddp, or leave Pruning out"
            )
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, WeightAveraging | StochasticWeightAveraging):
                raise UserError(
                    f"trainer.callbacks: {type(each).__name__} averages weights from before they were masked, and what "
                    "is kept would not be sparse; Pruning works with EMA"
                )
            if isinstance(each, StructuredPruning):
                self._come_after(each.rounds.last)
        self._forget()

    def _come_after(self, channels: float) -> None:
        """Refuse masks that are final before the last channels are gone: the share of zeros would be another one."""
        masks = 0.0 if self.ticket else self.plan.start if self.plan.schedule == "one_shot" else self.plan.end
        if masks < channels:
            what = "has its masks" if self.ticket or self.plan.schedule == "one_shot" else "reaches its sparsity"
            argument = "start" if self.plan.schedule == "one_shot" else "end"
            raise UserError(
                f"trainer.callbacks: Pruning {what} at {masks:g} of training, and StructuredPruning takes out channels "
                f"until {channels:g}, after which another share would be zero; "
                + ("leave one of them out" if self.ticket else f"give Pruning `{argument}: {channels:g}` or more")
            )

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the layers and the ticket; called before anything is written.

        Raises:
            UserError: a name matches no layer, none is left, or the ticket is none.
        """
        model, prefix = _network(pl_module)
        found, left = self.plan.layers(model)
        self._leave_out(left)
        if self.ticket is not None and self._loaded is None:
            self._given = Ticket.read(self.ticket, self.state_key)
        self._masking = Masking(self.plan.criterion, self.plan.scope, self.plan.pattern, run_seed())
        self._masking.weights = {f"{prefix}{name}": weight for name, weight in found.items()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find the layers, where the run's recorder has not asked yet."""
        if self._masking is None:
            self.validate_model(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out when masks are decided; put those of a resumed run, or of a ticket, on the weights."""
        masking = self._masking
        assert masking is not None
        steps = trainer.estimated_stepping_batches
        if not math.isfinite(steps):
            raise UserError(
                "Pruning: `start` and `end` are fractions of training: set trainer.max_epochs or max_steps."
            )
        self._decisions = self.plan.decisions(int(steps))
        self._rewind_step = None if self.rewind_to is None else min(round(self.rewind_to * steps), int(steps) - 1)
        if self._loaded is not None:
            self._take(self._loaded)
        elif self._given is not None:
            if trainer.global_step:
                raise UserError("Pruning: a ticket begins a training; it does not go on from another checkpoint.")
            self._given.take(pl_module, masking, self.plan.sparsity)
            self._rewind, self._decided = dict(self._given.rewind), self._decisions.last
        self._hooks = [each.register_step_post_hook(self._after_step) for each in trainer.optimizers]
        self._say(pl_module)

    def _say(self, pl_module: pl.LightningModule) -> None:
        assert self._masking is not None
        weights = self._masking.weights
        count = sum(weight.numel() for weight in weights.values())
        model, prefix = _network(pl_module)
        outputs = any(f"{prefix}{layer}.weight" in weights for layer in first_and_last(model)[1:])
        among = ", that which gives the logits among them" if outputs else ""
        plan = f"{self.plan.said} by {self.plan.criterion}"
        inform("Pruning: %s, of %s weights in %d layers%s", plan, f"{count:,}", len(weights), among)

    # ---------------------------------------------------------------- at every optimizer step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Take in the gradients, decide where it is time to, and leave masked weights without a gradient."""
        masking, decisions, step = self._masking, self._decisions, trainer.global_step
        if masking is None or decisions is None:
            return
        self._rebind(pl_module, optimizer)
        if step == self._rewind_step and not self._rewind:
            self._rewind = copy_of(pl_module)
        due = decisions.due(step)
        overdue = due is not None and due > self._decided
        if masking.needs_gradients and step > self._gathered and self._gathers(decisions, step, overdue):
            self._gather(trainer, masking, optimizer)
            self._gathered = step
        if overdue and (masking.sums or not masking.needs_gradients):
            assert due is not None
            self._decide(trainer, masking, decisions, due)
        masking.mask_gradients()

    def _gathers(self, decisions: Decisions, step: int, overdue: bool) -> bool:
        if self.plan.criterion == "movement":
            return step <= decisions.last
        following = decisions.following(step)
        return overdue or (following is not None and following - step < self.plan.score_steps)

    def _gather(self, trainer: pl.Trainer, masking: Masking, optimizer: torch.optim.Optimizer) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is None:
            masking.gather()
            return
        gradients = [weight.grad for weight in masking.weights.values() if weight.grad is not None]
        if all(bool(each.isfinite().all()) for each in gradients):  # or the scaler passes over this step
            # some optimizers divide by the scale themselves
            by_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
            masking.gather(float(scaler.get_scale()) if by_itself else 1.0)

    def _decide(self, trainer: pl.Trainer, masking: Masking, decisions: Decisions, due: int) -> None:
        self._decided = due
        share = sparsity_at(due, self.plan.sparsity, decisions.first, decisions.last, self.plan.schedule)
        if share:
            try:
                masking.prune(share)
            except ValueError as error:
                raise TrainingFailedError(
                    f"Pruning, at step {trainer.global_step}: {error}. NaNGuard finds out where training went wrong; a "
                    "layer that the loss does not see is for `exclude`."
                ) from error
            self._warn_of_collapse(masking, trainer.global_step)
            for each in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(each, EMA):
                    masking.mask_others(each.averages)
            reset_best(trainer)
        if self.plan.criterion != "movement":
            masking.sums.clear()
        if due == decisions.last:
            masking.settle()

    def _warn_of_collapse(self, masking: Masking, step: int) -> None:
        new = [name for name in masking.collapsed() if name not in self._collapsed]
        self._collapsed.update(new)
        if new:
            instead = "start: 0.01" if self.plan.criterion == "snip" else "scope: layer"  # residual branches begin at 0
            layers = ", ".join(name.removeprefix("model.").removesuffix(".weight") for name in new)
            warn("Pruning: at step %d no weight is left of %s; %s may avoid that", step, layers, instead)

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._masking is not None:
            self._masking.mask_weights()
            if (elsewhere := find_eval_weights_optimizer(optimizer)) is not None:
                points = {name: elsewhere.point(weight) for name, weight in self._masking.weights.items()}
                self._masking.mask_others({name: point for name, point in points.items() if point is not None})

    def on_sam_second_pass(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave masked weights where they are, when a sharpness-aware optimizer has moved all of them."""
        if self._masking is not None:
            self._masking.mask_weights()

    def _rebind(self, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Take the weights that the optimizer trains now, where others were put in their place."""
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if len(trained) == len(self._trained) and all(map(_is, trained, self._trained)):
            return
        assert self._masking is not None
        there = dict(pl_module.named_parameters())
        gone = [name for name in self._masking.weights if name not in there]
        if gone:
            raise UserError(f"Pruning: the network was changed while it was masked, {gone[0]} is gone from it")
        self._trained = trained
        self._masking.bind({name: there[name] for name in self._masking.weights})

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Prune the masks as the weights."""
        if self._masking is not None:
            self._masking.follow(dict(pl_module.named_parameters()), kept_indices)
            self._trained = []
            if self.plan.pattern is not None:
                fitting = fit_for(self._masking.weights, self.plan.pattern[1])
                self._leave_out([name for name in self._masking.weights if name not in fitting])
                self._masking.weights = fitting

    def _leave_out(self, names: list[str]) -> None:
        if names:
            layers = ", ".join(name.removeprefix("model.").removesuffix(".weight") for name in names)
            inform("Pruning: %s does not fit, by its inputs, and leaves dense: %s", self.plan.said, layers)

    # ---------------------------------------------------------------- what is said

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log how sparse the weights are."""
        if self._masking is not None:
            pl_module.log("train/sparsity", self._masking.sparsity)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the optimizer."""
        self._leave()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how many weights are zero, on the terminal and in the summary."""
        folder, masking = run_folder(trainer), self._masking
        if folder is not None and masking is not None and self._decisions is not None:
            found = sparsity_of(masking.weights)
            weights = sum(weight.numel() for weight in masking.weights.values())
            parameters = sum(each.numel() for each in _network(pl_module)[0].parameters())
            said: dict[str, Any] = {"sparsity": round(found, 6), "weights": weights, "layers": len(masking.weights)}
            said |= {"zeros": round(found * weights), "parameters": parameters, "criterion": self.plan.criterion}
            update_summary(folder, {"pruning": said})
            inform(
                "pruned: %.2f %% of %s weights in %d layers are zero, of %s parameters in all; they are stored and "
                "multiplied as before, which is no faster",
                *(100 * found, f"{weights:,}", len(masking.weights), f"{parameters:,}"),
            )
            if self._decided < self._decisions.last:
                warn("training ended before the sparsity that was asked for was reached")
        self._forget()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of the optimizer."""
        self._leave()

    def _leave(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # ---------------------------------------------------------------- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Masks, scores, where the schedule stands, and weights to rewind to."""
        if self._masking is None:
            return {}
        return {
            "masking": self._masking.state_dict(),
            "decided": self._decided,
            "gathered": self._gathered,
            "rewind": self._rewind,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, when training starts."""
        self._loaded = state_dict or None

    def rewind(self, state_dict: dict[str, Any]) -> None:
        """Go on from there at once: the steps since then are done again."""
        self._take(state_dict)

    def _take(self, state: dict[str, Any]) -> None:
        assert self._masking is not None
        self._masking.load_state_dict(state["masking"])
        self._masking.bind(self._masking.weights)
        self._decided, self._gathered = state["decided"], state["gathered"]
        self._rewind = dict(state["rewind"])


def _network(pl_module: pl.LightningModule) -> tuple[nn.Module, str]:
    """The network of a module, and what its names begin with in the module's state dict."""
    model = getattr(pl_module, "model", None)
    return (model, "model.") if isinstance(model, nn.Module) else (pl_module, "")


def _is(one: object, other: object) -> bool:
    return one is other
