"""Structured pruning in training, in rounds with fine-tuning between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from imgrec.callbacks.compatibility import (
    count_steps,
    gradient_scale,
    reject_feature_parameters,
    reject_lightning_averaging,
    require_whole_weights,
)
from imgrec.callbacks.compression.model_surgery import apply_surgery
from imgrec.callbacks.compression.structured_pruning_costs import (
    COST_TITLES,
    log_round,
    measure_costs,
    network_of_task,
    zero_images,
)
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.compress.pruning.blocks import drop_blocks
from imgrec.compress.pruning.channel_importance import ChannelCriterion
from imgrec.compress.pruning.channel_search import ChannelPruning, RoundTo, Scope
from imgrec.compress.pruning.channels import prune_channels
from imgrec.compress.pruning.dependency_graph import Attention
from imgrec.compress.pruning.optimizer_state import check_states
from imgrec.compress.pruning.schedule import Rounds
from imgrec.compress.pruning.targets import cost_of, parse_target
from imgrec.compress.surgery import surgical_copy
from imgrec.errors import UserError
from imgrec.models import Classifier
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback
from imgrec.utils.optional import require
from imgrec.utils.ranges import ClosedUnitInterval, LeftOpenUnitInterval, PositiveInt, check_ranges
from imgrec.utils.seeding import position_seed, run_seed


class StructuredPruning(Callback):
    """Structured pruning that removes channels and attention heads during training.

    Every round removes the least important channels with all their weights. Training continues with the smaller model.
    Momentum, moments and the average of :class:`EMA` are pruned as the weights. The learning-rate schedule does not
    change. ``train/macs`` and ``train/parameters`` in metrics.csv are the costs after every round. The summary of the
    run contains both costs, before and after. The best checkpoint and early stopping are reset at every round, so that
    the best model has its final size. A checkpoint contains the removed channels, and a resumed run is exact. The model
    folder loads without torch-pruning.

    With ``start: 0, rounds: 1`` and ``init_from`` of the task, a trained model is pruned at once and fine-tuned.
    Combine it with a regularizer such as ``group_norm`` or ``bn_scale``, whose ramp ends at ``start``, to make channels
    small first.

    Args:
        target: Cost that stays, as a fraction of the cost at the start: ``{macs: 0.5}``, ``{parameters: 0.5}`` or
            ``{latency: 0.5}``. The latency is measured on this machine with batches of one image. Defaults to
            ``{macs: 0.5}``.
        importance: Importance of a channel: ``group_l2``, ``l1``, ``l2``, ``taylor``, ``bn_scale`` or ``random``, see
            :func:`imgrec.compress.channel_importance`. ``taylor`` uses the gradients of the steps before a round.
            Defaults to ``group_l2``.
        scope: ``global`` compares the channels of all layers. ``layer`` prunes every layer by the same fraction.
            Defaults to ``global``.
        start: Fraction of training of the first round. Defaults to 0.1.
        end: Fraction of training of the last round. It has no effect on a single round. Defaults to 0.5.
        rounds: Number of rounds. Every round removes the same cost. Defaults to 5.
        round_to: Divisor of the number of channels of every layer. Odd numbers of channels are slow on most processors.
            ``auto`` is 8, or less for a layer with fewer than 32 channels. Defaults to 1.
        keep: Minimum fraction of channels that every layer keeps. Defaults to 0.1.
        depth: Fraction of the cost, above that of ``target``, down to which the first round removes whole residual
            blocks. Blocks that change their input least, on the images of that step, are removed first. By default none
            is.
        attention: ``dims`` removes dimensions of every attention head. ``heads`` removes whole heads. Defaults to
            ``dims``.
        include: Patterns of the layers to prune. Defaults to all layers.
        exclude: Patterns of layers that stay unchanged.
        gradient_steps: Number of steps whose gradients a round uses with ``taylor``. Defaults to 10.

    Raises:
        UserError: If an argument is out of range, or if the target cannot be reached.
        UserError: If the model of the task is no :class:`imgrec.Classifier`, or if the strategy shards the weights.
        UserError: If a callback other than EMA averages the weights, or if the state of the optimizer cannot be pruned.
        UserError: If the target is a latency and there are several processes.

    Example::

        trainer:
          callbacks:
            - {class_path: StructuredPruning, target: {macs: 0.5}, start: 0.1, end: 0.5, rounds: 2}

    See also :class:`Pruning`. Use it instead for zeros at single weights, without a change of the model size.

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900; Molchanov et al., 2019,
    "Importance estimation for neural network pruning", arXiv 1906.10771 (taylor, and rounds between steps).
    """

    @check_ranges
    def __init__(
        self,
        target: dict[str, float] | None = None,
        importance: ChannelCriterion = "group_l2",
        scope: Scope = "global",
        start: ClosedUnitInterval = 0.1,
        end: ClosedUnitInterval = 0.5,
        rounds: PositiveInt = 5,
        round_to: RoundTo = 1,
        keep: LeftOpenUnitInterval = 0.1,
        depth: float | None = None,
        attention: Attention = "dims",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        gradient_steps: PositiveInt = 10,
    ) -> None:
        self.target = {"macs": 0.5} if target is None else dict(target)
        try:
            self.kind, self.share = parse_target(self.target)
            self.rounds = Rounds(start, end, rounds)
            self.config = ChannelPruning(
                importance=importance,
                scope=scope,
                round_to=round_to,
                keep=keep,
                attention=attention,
                include=include or (),
                exclude=exclude or (),
            )
        except UserError as error:
            raise UserError(f"StructuredPruning: {error}") from error
        if depth is not None and not self.share < depth < 1:
            raise UserError(f"StructuredPruning.depth: expected float in ({self.share:g}, 1), got {depth}.")
        self.depth = depth
        self.gradient_steps = gradient_steps
        self._reset()

    def _reset(self) -> None:
        self._at: list[int] = []
        self._done = 0
        self._first: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._share = 1.0
        self._gradients: dict[str, Tensor] = {}
        self._loaded: dict[str, Any] | None = None
        self._checked = self._tried = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check the strategy and the other callbacks."""
        if stage != TrainerFn.FITTING:
            return
        require("torch_pruning", "compress", "StructuredPruning")
        require_whole_weights(trainer, "StructuredPruning")
        reject_lightning_averaging(trainer, "StructuredPruning")
        if trainer.world_size > 1 and self.kind == "latency":
            raise UserError(
                "StructuredPruning.target: expected macs or parameters with several processes, got latency, which "
                "differs between processes."
            )
        self._reset()

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check that the model can be pruned to the target, and that there are enough steps."""
        if not isinstance(getattr(pl_module, "model", None), Classifier):
            raise UserError("StructuredPruning: expected a task whose `model` is an imgrec.Classifier.")
        for part in (getattr(pl_module, name, None) for name in ("loss", "regularizers")):
            reject_feature_parameters(part)
        self._positions(trainer)
        if self._loaded is None and not self._tried and self.kind != "latency":
            with torch.random.fork_rng([]):
                self._try_out(surgical_copy(network_of_task(pl_module)), zero_images(pl_module))
        self._tried = True

    def _try_out(self, model: Classifier, images: Tensor) -> None:
        """Prune a copy to the target, which raises an error if the target cannot be reached."""
        config = replace(self.config, importance="group_l2") if self.config.importance == "taylor" else self.config
        dense = cost_of(model, images, self.kind)
        if self.depth is not None:
            drop_blocks(model, images, {self.kind: self.depth}, dense=dense)
        prune_channels(model, images, {self.kind: self.share}, config, dense=dense)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Plan the steps of the rounds, and restore the state of a resumed run."""
        self.validate_model(trainer, pl_module)  # a trainer without a run recorder does not call it
        self._at = self._positions(trainer)
        if self._loaded is not None:
            state, self._loaded = self._loaded, None
            self._done, self._first, self._left = state["done"], state["first"], state["left"]
            self._share = state["share"]
            device = pl_module.device
            self._gradients = {name: value.to(device) for name, value in state["gradients"].items()}
        else:
            self._first = self._left = measure_costs(pl_module, *dict.fromkeys((*COST_TITLES, self.kind)))

    def _positions(self, trainer: pl.Trainer) -> list[int]:
        steps = count_steps(trainer, "StructuredPruning.start")
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return [int(self.config.importance == "taylor")]
        try:
            found = self.rounds.steps_of(steps)
        except UserError as error:
            raise UserError(f"StructuredPruning: {error}") from error
        if self.config.importance == "taylor" and found[0] == 0:
            raise UserError(
                "StructuredPruning.start: expected a step before the first round with importance taylor, got "
                f"{self.rounds.start:g} of {steps} steps."
            )
        return found

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Accumulate gradients for the next round. They are those of all processes, and not clipped."""
        if self.config.importance == "taylor" and self._done < len(self._at):
            ahead = self._at[self._done] - trainer.global_step
            if 0 < ahead <= self.gradient_steps:
                self._accumulate_gradients(pl_module, gradient_scale(trainer))

    @torch.no_grad()
    def _accumulate_gradients(self, pl_module: pl.LightningModule, scale: float) -> None:
        gradients = {n: p.grad for n, p in network_of_task(pl_module).named_parameters() if p.grad is not None}
        if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            return  # the gradient scaler skips this step
        for name, gradient in gradients.items():
            share = gradient.float() / (scale * self.gradient_steps)
            if name in self._gradients:
                self._gradients[name].add_(share)
            else:
                self._gradients[name] = share

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Prune between two optimizer steps, if a round is due."""
        step = trainer.global_step
        if not self._checked and any(optimizer.state for optimizer in trainer.optimizers):
            for optimizer in trainer.optimizers:
                check_states(optimizer)
            self._checked = True
        if self._done < len(self._at) and step >= self._at[self._done]:
            self._round(trainer, pl_module, batch)

    def _round(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        number = self._done + 1
        images = None
        if self.depth is not None and number == 1:
            images = trainer.strategy.broadcast(batch.images)  # the same images in all processes
        apply_surgery(trainer, pl_module, lambda model: self._prune(model, pl_module, number, images))
        self._done, self._gradients = number, {}
        self._left = measure_costs(pl_module, *COST_TITLES)
        log_round(trainer, number, len(self._at), self._first, self._left)

    def _prune(
        self, model: Any, pl_module: pl.LightningModule, number: int, images: Tensor | None
    ) -> dict[str, Tensor]:
        if images is not None and self.depth is not None:
            self._share = drop_blocks(model, images.to(pl_module.device), {self.kind: self.depth}).share
        config = replace(self.config, seed=position_seed(run_seed(), "channels", number))
        report = prune_channels(
            model,
            zero_images(pl_module),
            {self.kind: self.rounds.remaining(number, self.share)},
            config,
            gradients=self._gradients if self.config.importance == "taylor" else None,
            dense=self._first[self.kind],
            start=self._share if self.kind == "latency" else None,  # latencies of different rounds are not comparable
        )
        self._share = report.share
        return report.kept

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the costs before and after into the summary."""
        folder = run_folder(trainer)
        if folder is not None and self._done:
            update_summary(
                folder, {"structured_pruning": {"rounds": self._done, "before": self._first, "after": self._left}}
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rounds, the costs and the accumulated gradients."""
        return {
            "done": self._done,
            "first": self._first,
            "left": self._left,
            "share": self._share,
            "gradients": self._gradients,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the state until training starts."""
        self._loaded = state_dict
