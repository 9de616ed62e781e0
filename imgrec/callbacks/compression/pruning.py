"""Pruning of single weights in training, by masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imgrec.callbacks.compatibility import count_steps, reject_lightning_averaging, require_whole_weights
from imgrec.callbacks.compression.lottery_ticket import Ticket, copy_of
from imgrec.callbacks.compression.mask_steps import (
    accumulate_scores,
    bind_masks,
    check_ticket_arguments,
    mask_after_step,
    needs_scores,
    prune_weights,
    require_last_masks_after,
)
from imgrec.callbacks.compression.pruning_report import (
    log_dense_layers,
    log_plan,
    log_warning,
    split_prefix,
    warn_of_collapse,
    write_pruning_summary,
)
from imgrec.callbacks.compression.structured_pruning import StructuredPruning
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.compress.pruning.mask_config import MaskConfig
from imgrec.compress.pruning.masked_model import Masking
from imgrec.compress.pruning.masks import Scope, fit_for
from imgrec.compress.pruning.schedule import Decisions, Shape, sparsity_at
from imgrec.compress.pruning.weight_importance import Criterion
from imgrec.errors import UserError
from imgrec.tasks.callback import Callback
from imgrec.utils.ranges import ClosedUnitInterval, PositiveInt, RightOpenUnitInterval, check_ranges
from imgrec.utils.seeding import run_seed


class Pruning(Callback):
    """Unstructured pruning with masks whose sparsity increases during training.

    Masked weights are exactly zero after every optimizer step: in validation, in checkpoints, in the average of
    :class:`EMA` and in the model folder. A checkpoint contains masks, schedule and scores, so that a resumed run is
    exact. The best checkpoint and early stopping are reset whenever more weights were masked. The best model therefore
    has the final sparsity. ``train/sparsity`` in metrics.csv is the fraction of zeros among the weights that may be
    pruned. Zeros are stored and multiplied, and save neither time nor memory.

    Criteria:

    - ``magnitude``: absolute value. ``random``: control.
    - ``taylor``: squared change of the loss, to first order.
    - ``snip``: absolute change of the loss, to first order, before the first step. The residual branches of timm models
      are zero at that step and receive no gradient. Use ``start: 0.01`` for these.
    - ``movement``: distance that training moves a weight away from zero, for fine-tuning. The gradients of masked
      weights contribute to their scores, and a weight can return with its previous value.

    Scores use the gradients of an optimizer step: accumulated, equal in all processes, unscaled and not clipped. The
    gradients of masked weights are zero and do not contribute to a norm for clipping.

    Args:
        sparsity: Final fraction of zeros. Defaults to 0.9, or to the fraction of ``pattern``.
        criterion: Importance of a weight. Defaults to ``magnitude``.
        scope: ``global`` compares the weights of all layers. ``layer`` prunes every layer to the same sparsity.
            Defaults to ``global``.
        pattern: N of every M consecutive inputs that stay, as ``N:M``. Sparse tensor cores read ``2:4``. Layers whose
            number of inputs is no multiple of M stay dense.
        schedule: ``cubic`` (first fast, then slow), ``linear``, or ``one_shot`` at ``start``. Defaults to ``one_shot``
            for snip and a pattern, and to ``cubic`` otherwise.
        start: Fraction of training at which pruning starts. Defaults to 0 for snip, and to 0.1 otherwise.
        end: Fraction of training at which the final sparsity is reached. Defaults to 0.6.
        every_n_steps: Number of optimizer steps between two decisions. By default there are about 50 decisions.
        score_steps: Number of steps whose gradients a decision uses. Defaults to 1 for snip and 10 for taylor. Movement
            uses all steps since the start.
        include: Patterns of layer names, such as ``backbone.*.conv2``. By default all convolutions and linear layers
            except the first and the output layer, which are small and important.
        exclude: Patterns of layers that stay dense, instead of the first and the output layer. ``[]`` prunes all.
        rewind_to: Fraction of training at which a copy of the weights is stored, for lottery tickets.
        ticket: Run folder or checkpoint with such a copy. Training starts from it, with masks by the magnitude of the
            last weights of that run.

    Raises:
        UserError: If an argument is out of range, if a pattern matches no layer, or if no layer is left.
        UserError: If the strategy shards the weights, or if a callback other than EMA averages them.
        TrainingFailedError: If the weights become NaN or infinite during training.

    Example::

        trainer:
          callbacks:
            - {class_path: Pruning, sparsity: 0.9, criterion: magnitude, end: 0.6}

    Iterative magnitude pruning with rewinding is a sequence of runs, of which the first is dense. The weights are
    rewound, and the learning-rate schedule starts again::

        {class_path: Pruning, sparsity: 0, rewind_to: 0.02}
        {class_path: Pruning, sparsity: 0.5, ticket: runs/<first>}
        {class_path: Pruning, sparsity: 0.75, ticket: runs/<second>}

    See also :class:`StructuredPruning`. Use it instead to make the model smaller and faster.

    Source: Zhu and Gupta 2017, "To prune, or not to prune", arXiv 1710.01878; Lee et al. 2019, "SNIP", arXiv
    1810.02340; Molchanov et al. 2019, "Importance estimation for neural network pruning", arXiv 1906.10771; Sanh et al.
    2020, "Movement pruning", arXiv 2005.07683; Mishra et al. 2021, "Accelerating sparse deep neural networks", arXiv
    2104.08378; Frankle et al. 2020, "Linear mode connectivity and the lottery ticket hypothesis", arXiv 1912.05671.
    """

    @check_ranges
    def __init__(
        self,
        sparsity: RightOpenUnitInterval | None = None,
        criterion: Criterion = "magnitude",
        scope: Scope = "global",
        pattern: str | None = None,
        schedule: Shape | None = None,
        start: ClosedUnitInterval | None = None,
        end: ClosedUnitInterval | None = None,
        every_n_steps: PositiveInt | None = None,
        score_steps: PositiveInt | None = None,
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        rewind_to: RightOpenUnitInterval | None = None,
        ticket: str | None = None,
    ) -> None:
        args = (sparsity, criterion, scope, pattern, schedule, start, end, every_n_steps, score_steps, include, exclude)
        self.config = MaskConfig(*args)
        if sparsity == 0 and rewind_to is None:
            raise UserError("Pruning.sparsity: expected a value above 0, got 0. Use 0 only together with rewind_to.")
        if ticket is not None:
            check_ticket_arguments(criterion, schedule=schedule, start=start, end=end, rewind_to=rewind_to)
        self.rewind_to = rewind_to
        self.ticket = ticket
        self._reset()

    def _reset(self) -> None:
        self._masking: Masking | None = None
        self._decisions: Decisions | None = None
        self._decided = -1
        self._scored = -1
        self._rewind: dict[str, Any] = {}
        self._rewind_step: int | None = None
        self._loaded: dict[str, Any] | None = None
        self._ticket: Ticket | None = None
        self._trained: list[nn.Parameter] = []
        self._hooks: list[RemovableHandle] = []
        self._collapsed: set[str] = set()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the strategy and the other callbacks."""
        if stage != TrainerFn.FITTING:
            return
        require_whole_weights(trainer, "Pruning")
        reject_lightning_averaging(trainer, "Pruning")
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, StructuredPruning):
                require_last_masks_after(self.config, self.ticket, each.rounds.last)
        self._reset()

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select the layers and read the ticket."""
        model, prefix = split_prefix(pl_module)
        weights, dense = self.config.select_layers(model)
        log_dense_layers(self.config, dense)
        if self.ticket is not None and self._loaded is None:
            self._ticket = Ticket.read(self.ticket, self.state_key)
        self._masking = Masking(self.config.criterion, self.config.scope, self.config.pattern, run_seed())
        self._masking.weights = {f"{prefix}{name}": weight for name, weight in weights.items()}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select the layers, if the trainer has no run recorder."""
        if self._masking is None:
            self.validate_model(trainer, pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Plan the decisions, and apply the masks of a resumed run or of a ticket."""
        masking = self._masking
        assert masking is not None
        steps = count_steps(trainer, "Pruning.start")
        self._decisions = self.config.plan_decisions(steps)
        self._rewind_step = None if self.rewind_to is None else min(round(self.rewind_to * steps), steps - 1)
        if self._loaded is not None:
            self.rewind(self._loaded)
        elif self._ticket is not None:
            if trainer.global_step:
                raise UserError("Pruning.ticket: expected a new training, got one that resumes another checkpoint.")
            self._ticket.take(pl_module, masking, self.config.sparsity)
            self._rewind, self._decided = dict(self._ticket.rewind), self._decisions.last
        self._hooks = [each.register_step_post_hook(self._after_step) for each in trainer.optimizers]
        log_plan(self.config, masking, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Accumulate scores, decide masks if a decision is due, and set the gradients of masked weights to zero."""
        masking, decisions, step = self._masking, self._decisions, trainer.global_step
        if masking is None or decisions is None:
            return
        self._rebind(pl_module, optimizer)
        if step == self._rewind_step and not self._rewind:
            self._rewind = copy_of(pl_module)
        due = decisions.due(step)
        overdue = due is not None and due > self._decided
        if masking.needs_gradients and step > self._scored and needs_scores(self.config, decisions, step, overdue):
            accumulate_scores(trainer, masking, optimizer)
            self._scored = step
        if overdue and (masking.sums or not masking.needs_gradients):
            assert due is not None
            self._decide(trainer, masking, decisions, due)
        masking.mask_gradients()

    def _decide(self, trainer: pl.Trainer, masking: Masking, decisions: Decisions, due: int) -> None:
        self._decided = due
        share = sparsity_at(due, self.config.sparsity, decisions.first, decisions.last, self.config.schedule)
        if share:
            prune_weights(trainer, masking, share)
            collapsed = [name for name in masking.collapsed() if name not in self._collapsed]
            self._collapsed.update(collapsed)
            warn_of_collapse(self.config, collapsed, trainer.global_step)
        if self.config.criterion != "movement":
            masking.sums.clear()
        if due == decisions.last:
            masking.finish()

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._masking is not None:
            mask_after_step(self._masking, optimizer)

    def on_sam_second_pass(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set masked weights to zero again after the perturbation."""
        if self._masking is not None:
            self._masking.mask_weights()

    def _rebind(self, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Apply the masks to the weights that the optimizer trains, if they were replaced."""
        assert self._masking is not None
        trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if len(trained) != len(self._trained) or any(a is not b for a, b in zip(trained, self._trained, strict=True)):
            self._trained = trained
            bind_masks(self._masking, pl_module)

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Prune the masks as the weights."""
        if self._masking is not None:
            self._masking.update_weights(dict(pl_module.named_parameters()), kept_indices)
            self._trained = []
            if self.config.pattern is not None:
                fitting = fit_for(self._masking.weights, self.config.pattern[1])
                log_dense_layers(self.config, [name for name in self._masking.weights if name not in fitting])
                self._masking.weights = fitting

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log ``train/sparsity``."""
        if self._masking is not None:
            pl_module.log("train/sparsity", self._masking.sparsity)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the hooks of the optimizers."""
        self._remove_hooks()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the number of zeros into the summary."""
        if self._masking is not None and self._decisions is not None:
            write_pruning_summary(trainer, pl_module, self.config, self._masking)
            if run_folder(trainer) is not None and self._decided < self._decisions.last:
                log_warning("training ended before the final sparsity was reached")
        self._reset()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks of the optimizers."""
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def state_dict(self) -> dict[str, Any]:
        """Return masks, scores, position in the schedule, and the weights for rewinding."""
        if self._masking is None:
            return {}
        position = {"decided": self._decided, "gathered": self._scored}
        return {"masking": self._masking.state_dict(), **position, "rewind": self._rewind}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the state until training starts."""
        self._loaded = state_dict or None

    def rewind(self, state_dict: dict[str, Any]) -> None:
        """Apply the masks of an earlier step at once."""
        assert self._masking is not None
        self._masking.load_state_dict(state_dict["masking"])
        self._masking.bind(self._masking.weights)
        self._decided, self._scored = state_dict["decided"], state_dict["gathered"]
        self._rewind = dict(state_dict["rewind"])
