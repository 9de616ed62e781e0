"""Structured pruning in training: the network becomes narrower, round by round, and goes on learning between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import StochasticWeightAveraging, WeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from imgrec.callbacks.compression.model_surgery import apply_surgery
from imgrec.callbacks.recording.current_run import run_folder
from imgrec.compress.pruning.blocks import drop_blocks
from imgrec.compress.pruning.channel_importance import ChannelCriterion
from imgrec.compress.pruning.channel_search import ChannelPruning, RoundTo, Scope
from imgrec.compress.pruning.channels import prune_channels
from imgrec.compress.pruning.dependency_graph import Attention
from imgrec.compress.pruning.optimizer_state import check_states
from imgrec.compress.pruning.schedule import Rounds
from imgrec.compress.pruning.targets import CostKind, cost_of, parse_target
from imgrec.compress.surgery import surgical_copy
from imgrec.errors import UserError
from imgrec.models import Classifier
from imgrec.models.utils.forward import preserve_modes
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback
from imgrec.utils.checks import at_least_one
from imgrec.utils.optional import require
from imgrec.utils.seeding import position_seed, run_seed

_WORDS: dict[CostKind, str] = {"macs": "MACs", "parameters": "parameters"}


class StructuredPruning(Callback):
    """Takes channels and attention heads out of the network while it trains, so that it is really smaller and faster.

    At each round the least important channels go, with every weight that belongs to them, and training goes on with
    what is left: momentum, moments and the average of :class:`EMA` are cut as the weights are, the learning rate goes
    on as planned. One run goes from dense to the target. ``train/macs`` and ``train/parameters`` in metrics.csv say
    what each round left; the run's summary says both ends. The best checkpoint and early stopping begin anew at every
    round, so that what is kept as best has its final size. What has been taken out is in the checkpoint, and a resumed
    run goes on with it; the model folder loads without torch-pruning.

    With ``start: 0, rounds: 1`` and the task's ``init_from``, a trained network is pruned at once and fine-tuned. A
    regularizer such as ``group_norm`` or ``bn_scale``, whose ramp ends at ``start``, makes channels small first.

    Args:
        target: what is to be left of the network that training starts with: ``{macs: 0.5}``, ``{parameters: 0.5}`` or
            ``{latency: 0.5}``, which is measured here, for batches of one image.
        importance: what makes a channel matter: ``group_l2``, ``l1``, ``l2``, ``taylor``, ``bn_scale`` or ``random``;
            see :func:`imgrec.compress.channel_importance`. ``taylor`` looks at the gradients of the steps before a
            round.
        scope: ``global`` compares the channels of all layers, ``layer`` prunes each by the same share.
        start: the fraction of training at which the first round is.
        end: the fraction at which the last round is; of one round, nothing.
        rounds: how many there are; each takes out as much.
        round_to: the channels of each layer are a multiple of this; processors are slow with odd numbers of them.
            ``auto``: of 8, and of less where a layer has fewer than 32.
        keep: the share of its channels that each layer keeps at least.
        depth: at the first round whole residual blocks go, until this share of the cost is left, above that of
            ``target``: the ones that change what they are given least, by the images of that step.
        attention: what attention loses: ``dims`` of every head, or whole ``heads``.
        include: patterns of the layers to prune; by default all.
        exclude: patterns of the layers to leave as they are.
        gradient_steps: for ``taylor``, how many steps' gradients a round rests on.

    Raises:
        UserError: a number or a name that cannot be; a target that cannot be reached; a task without a network of
            imgrec's; a strategy that shards the weights; an average of weights other than EMA's; an optimizer whose
            state cannot be cut; several processes with a target of latency, which each would measure differently.

    Example::

        trainer:
          callbacks:
            - {class_path: StructuredPruning, target: {macs: 0.5}, start: 0.1, end: 0.5, rounds: 2}

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900; Molchanov et al., 2019,
    "Importance estimation for neural network pruning", arXiv 1906.10771 (taylor, and rounds between steps).
    """

    def __init__(
        self,
        target: dict[str, float] | None = None,
        importance: ChannelCriterion = "group_l2",
        scope: Scope = "global",
        start: float = 0.1,
        end: float = 0.5,
        rounds: int = 5,
        round_to: RoundTo = 1,
        keep: float = 0.1,
        depth: float | None = None,
        attention: Attention = "dims",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        gradient_steps: int = 10,
    ) -> None:
        self.target = {"macs": 0.5} if target is None else dict(target)
        at_least_one("StructuredPruning", gradient_steps=gradient_steps)
        try:
            self.kind, self.share = parse_target(self.target)
            self.rounds = Rounds(start, end, rounds)
            self.how = ChannelPruning(
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
            raise UserError(f"StructuredPruning: `depth` is a share above {self.share:g} and below 1, got {depth}.")
        self.depth = depth
        self.gradient_steps = gradient_steps
        self._forget()

    def _forget(self) -> None:
        self._at: list[int] = []
        self._done = 0
        self._first: dict[str, float] = {}
        self._left: dict[str, float] = {}
        self._share = 1.0
        self._gradients: dict[str, Tensor] = {}
        self._loaded: dict[str, Any] | None = None
        self._checked = self._rehearsed = False

    # ---------------------------------------------------------------- begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot be made smaller here."""
        if stage != TrainerFn.FITTING:
            return
        require("torch_pruning", "compress", "StructuredPruning")
        strategy = trainer.strategy
        if isinstance(strategy, FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                f"trainer.callbacks: StructuredPruning needs all weights in every process, and "
                f"{type(strategy).__name__} shards them; take strategy: ddp, or leave StructuredPruning out"
            )
        if trainer.world_size > 1 and self.kind == "latency":
            raise UserError(
                "trainer.callbacks: StructuredPruning would measure another latency in every process, and so come to "
                "different networks; take a target of macs or parameters, or one process"
            )
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, WeightAveraging | StochasticWeightAveraging):
                raise UserError(
                    f"trainer.callbacks: {type(each).__name__} averages weights of the network as it was; "
                    "StructuredPruning works with EMA"
                )
        self._forget()

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a network that cannot be pruned so far, and too few steps; called before anything is written."""
        if not isinstance(getattr(pl_module, "model", None), Classifier):
            raise UserError("trainer.callbacks: StructuredPruning takes a task whose `model` is an imgrec Classifier")
        for part in (getattr(pl_module, name, None) for name in ("loss", "regularizers")):
            refuse_of_width(part)
        self._positions(trainer)
        if self._loaded is None and not self._rehearsed and self.kind != "latency":
            with torch.random.fork_rng([]):
                self._rehearse(surgical_copy(_network(pl_module)), _images(pl_module))
        self._rehearsed = True

    def _rehearse(self, model: Classifier, images: Tensor) -> None:
        """Prune a copy as far as the network is going to be, which may be farther than it can."""
        how = replace(self.how, importance="group_l2") if self.how.importance == "taylor" else self.how
        dense = cost_of(model, images, self.kind)
        if self.depth is not None:
            drop_blocks(model, images, {self.kind: self.depth}, dense=dense)
        prune_channels(model, images, {self.kind: self.share}, how, dense=dense)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find out before which steps the rounds are."""
        self.validate_model(trainer, pl_module)  # without a recorder nobody has asked for it yet
        self._at = self._positions(trainer)
        if self._loaded is not None:
            state, self._loaded = self._loaded, None
            self._done, self._first, self._left = state["done"], state["first"], state["left"]
            self._share = state["share"]
            device = pl_module.device
            self._gradients = {name: value.to(device) for name, value in state["gradients"].items()}
        else:
            self._first = self._left = self._costs(pl_module, *dict.fromkeys((*_WORDS, self.kind)))

    def _positions(self, trainer: pl.Trainer) -> list[int]:
        steps = trainer.estimated_stepping_batches
        if steps in (float("inf"), -1):
            raise UserError(
                "StructuredPruning: rounds are at fractions of training: set trainer.max_epochs or max_steps"
            )
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return [int(self.how.importance == "taylor")]  # a rehearsal
        try:
            found = self.rounds.steps_of(int(steps))
        except UserError as error:
            raise UserError(f"StructuredPruning: {error}") from error
        if self.how.importance == "taylor" and found[0] == 0:
            raise UserError(
                f"StructuredPruning: taylor looks at gradients from before a round, and `start: {self.rounds.start:g}` "
                f"of {steps} steps leaves none"
            )
        return found

    # ---------------------------------------------------------------- the steps

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Gather gradients where a round that looks at them is near: accumulated, of all processes, not clipped."""
        if self.how.importance == "taylor" and self._done < len(self._at):
            ahead = self._at[self._done] - trainer.global_step
            if 0 < ahead <= self.gradient_steps:
                self._gather(pl_module, _scale_of(trainer))

    @torch.no_grad()
    def _gather(self, pl_module: pl.LightningModule, scale: float) -> None:
        gradients = {n: p.grad for n, p in _network(pl_module).named_parameters() if p.grad is not None}
        if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            return  # a gradient scaler passes over this step
        for name, gradient in gradients.items():
            share = gradient.float() / (scale * self.gradient_steps)
            if name in self._gradients:
                self._gradients[name].add_(share)
            else:
                self._gradients[name] = share

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Between two steps: prune, where it is time to."""
        step = trainer.global_step
        if not self._checked and any(optimizer.state for optimizer in trainer.optimizers):
            for optimizer in trainer.optimizers:
                check_states(optimizer)
            self._checked = True
        if self._done < len(self._at) and step >= self._at[self._done]:
            self._round(trainer, pl_module, batch)

    def _round(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> None:
        number = self._done + 1
        seen = None
        if self.depth is not None and number == 1:
            seen = trainer.strategy.broadcast(batch.images)  # all processes look at the same ones
        apply_surgery(trainer, pl_module, lambda model: self._prune(model, pl_module, number, seen))
        self._done, self._gradients = number, {}
        self._left = self._costs(pl_module, *_WORDS)
        figures = {f"train/{name}": self._left[name] for name in _WORDS} | {"epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(figures, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
        left = ", ".join(
            f"{millions(self._left[name])} {word} ({self._left[name] / self._first[name]:.0%})"
            for name, word in _WORDS.items()
        )
        trainer.print(f"pruned after step {trainer.global_step}, round {number} of {len(self._at)}: {left} left")

    def _prune(self, model: Any, pl_module: pl.LightningModule, number: int, seen: Tensor | None) -> dict[str, Tensor]:
        if seen is not None and self.depth is not None:
            self._share = drop_blocks(model, seen.to(pl_module.device), {self.kind: self.depth}).share
        how = replace(self.how, seed=position_seed(run_seed(), "channels", number))
        report = prune_channels(
            model,
            _images(pl_module),
            {self.kind: self.rounds.remaining(number, self.share)},
            how,
            gradients=self._gradients if self.how.importance == "taylor" else None,
            dense=self._first[self.kind],
            start=self._share if self.kind == "latency" else None,  # times of another moment are not to be compared
        )
        self._share = report.share
        return report.kept

    def _costs(self, pl_module: pl.LightningModule, *kinds: CostKind) -> dict[str, float]:
        network, images = _network(pl_module), _images(pl_module)
        with preserve_modes(network), torch.compiler.set_stance("force_eager"):
            return {kind: cost_of(network, images, kind) for kind in kinds}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say in the summary what training began and ended with."""
        folder = run_folder(trainer)
        if folder is not None and self._done:
            shown = {"rounds": self._done, "before": self._first, "after": self._left}
            update_summary(folder, {"structured_pruning": shown})

    # ---------------------------------------------------------------- the state

    def state_dict(self) -> dict[str, Any]:
        """How many rounds are done, what there was and is, and the gradients that are being gathered."""
        return {
            "done": self._done,
            "first": self._first,
            "left": self._left,
            "share": self._share,
            "gradients": self._gradients,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there, when training starts."""
        self._loaded = state_dict


def millions(count: float) -> str:
    """A count as one reads it.

    >>> millions(40813184), millions(272474), millions(1_234_000_000)
    ('40.8 M', '0.272 M', '1,230 M')
    """
    shown = float(f"{count / 1e6:.3g}")
    return f"{shown:,.0f} M" if shown >= 100 else f"{shown:g} M"


def _network(pl_module: pl.LightningModule) -> Classifier:
    task: Any = pl_module
    network: Classifier = task.model
    return network


def _images(pl_module: pl.LightningModule) -> Tensor:
    """Images such as the network takes, to follow and to count what it does."""
    task: Any = pl_module
    size = task.facts.image_size
    return torch.zeros(2, task.facts.channels, size, size, dtype=torch.uint8, device=task.device)


def refuse_of_width(part: Any) -> None:
    """Refuse a loss or a regularizer that has learnt something of the features' length, which is about to change."""
    for module in part.modules() if isinstance(part, torch.nn.Module) else ():
        if getattr(module, "feature_width", None) is not None:
            raise UserError(
                f"trainer.callbacks: StructuredPruning makes the features shorter, and {type(module).__name__} has "
                "learnt parameters of their length; leave one of them out"
            )


def _scale_of(trainer: pl.Trainer) -> float:
    """What gradients are multiplied by under mixed half precision."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return float(scaler.get_scale()) if scaler is not None else 1.0
