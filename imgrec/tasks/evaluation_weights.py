"""What a task does for an optimizer whose result is not where the weights stand while it trains."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch.optim import Optimizer

from imgrec.errors import UserError
from imgrec.optim.optimizers.averaged import EvalWeightsOptimizer, find_eval_weights_optimizer
from imgrec.optim.schedules.base import SCHEDULES
from imgrec.registry import Spec
from imgrec.tasks.callback import Callback

logger = logging.getLogger(__name__)


def agree_on_weights(trainer: pl.Trainer, optimizer: Optimizer, schedule: Spec) -> None:
    """Decide, before training, what is evaluated; warn of a schedule that such an optimizer does without.

    Raises:
        UserError: weights are averaged twice.
    """
    found = find_eval_weights_optimizer(optimizer)
    if found is None:
        return
    averaging = next((each for each in trainer.callbacks if _averages(each)), None)  # type: ignore[attr-defined]
    if averaging is not None and found.averages_alone:
        raise UserError(
            f"trainer.callbacks: {type(averaging).__name__} averages weights, and so does {type(found).__name__} "
            "already: leave one of the two out."
        )
    found.swaps = averaging is None
    name, _ = SCHEDULES.parse(schedule, "model.schedule")
    if found.averages_alone and name != "constant":
        rank_zero_only(logger.warning)(
            "model.schedule: %s works with a constant learning rate, and the average takes the place of its decay; %s "
            "decays it too. What goes with it: {name: constant, warmup: 0.05}",
            *(type(found).__name__, name),
        )


def _averages(callback: object) -> bool:
    return isinstance(callback, WeightAveraging) or (isinstance(callback, Callback) and callback.averages_weights)


def swap_to_eval(trainer: pl.Trainer) -> None:
    """While fitting, put the weights that are evaluated into the network."""
    if trainer.state.fn == TrainerFn.FITTING:
        for found in _of(trainer):
            found.eval()


def swap_to_train(trainer: pl.Trainer) -> None:
    """While fitting, put the weights that are trained back."""
    if trainer.state.fn == TrainerFn.FITTING:
        for found in _of(trainer):
            found.train()


def keep_evaluated(trainer: pl.Trainer, module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
    """Let the checkpoint's ``state_dict`` be what is evaluated; the optimizer's state has the weights of the step."""
    for found in _of(trainer):
        if found.swaps and found._weights is None:
            names: dict[int, list[str]] = {}
            for name, parameter in module.named_parameters(remove_duplicate=False):
                names.setdefault(id(parameter), []).append(name)
            for trained, value in found.evaluated():
                for name in names.get(id(trained), ()):
                    checkpoint["state_dict"][name] = value


def _of(trainer: pl.Trainer) -> list[EvalWeightsOptimizer]:
    return [found for each in trainer.optimizers if (found := find_eval_weights_optimizer(each)) is not None]
