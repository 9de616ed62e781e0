"""The max-norm constraint: no unit's weights grow beyond a length, whatever the optimizer does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.models.utils.patterns import Scope, in_scope, scope_names
from imgrec.optim.max_norm import project_max_norm_
from imgrec.optim.optimizers.averaged import find_eval_weights_optimizer
from imgrec.tasks.callback import Callback

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MaxNorm(Callback):
    """Keeps the weights of each filter, or each row of a matrix, at a Euclidean norm of at most ``limit``.

    After every optimizer step, what is longer is shortened: a constraint, and no penalty, that lets large learning
    rates explore; made for dropout in networks without batch normalization, behind which a filter's length plays no
    part. It has no state, so that a resumed run goes on exactly. What is averaged (EMA) stays within the limit, too.

    Args:
        limit: the largest norm, above 0; 2 to 4 is usual.
        scope: names or patterns of the weights, or of modules that hold them; by default all convolutions and linear
            layers.

    Raises:
        UserError: a limit of 0 or less; a pattern that matches no such weight; weights that are computed from others
            (weight normalization, LoRA); a schedule-free optimizer, whose weights lie between two others; a strategy
            that shards the weights.

    Example::

        trainer:
          callbacks:
            - {class_path: MaxNorm, limit: 3.0}

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15,
    section 5.1.
    """

    runs_in_short_runs = True

    def __init__(self, limit: float = 3.0, scope: str | list[str] | None = None) -> None:
        try:
            self.limit = in_range("limit", limit, open_low=True)
        except UserError as error:
            raise UserError(f"MaxNorm: {error}") from error
        self.scope: Scope = scope
        self._weights: list[nn.Parameter] = []
        self._hooks: list[RemovableHandle] = []

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what cannot be constrained; called before anything is written."""
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                f"trainer.callbacks: MaxNorm needs whole filters, and {type(trainer.strategy).__name__} shards them; "
                "take strategy: ddp, or leave MaxNorm out"
            )
        self._find(pl_module)

    def _find(self, pl_module: pl.LightningModule) -> list[nn.Parameter]:
        model = getattr(pl_module, "model", None)
        network = model if isinstance(model, nn.Module) else pl_module
        where = "trainer.callbacks: MaxNorm"
        scope_names(network, self.scope, f"{where}: scope")
        found: list[nn.Parameter] = []
        computed: list[str] = []
        for name, module in network.named_modules():
            if isinstance(module, _LAYERS) and in_scope(f"{name}.weight" if name else "weight", self.scope):
                if parametrize.is_parametrized(module, "weight"):
                    computed.append(name)
                else:
                    found.append(module.get_parameter("weight"))
        if computed:
            raise UserError(
                f"{where}: the weight of {computed[0]} is computed from others (weight normalization, LoRA), which no "
                "limit on it reaches; name other layers with `scope`"
            )
        if not found:
            raise UserError(f"{where}: the scope {self.scope!r} holds no weight of a convolution or a linear layer")
        return found

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stand behind each optimizer's step."""
        self.validate_model(trainer, pl_module)  # without a recorder nobody has asked for it yet
        self._weights = self._find(pl_module)
        for optimizer in trainer.optimizers:
            elsewhere = find_eval_weights_optimizer(optimizer)
            if elsewhere is not None and elsewhere.averages_alone:
                raise UserError(
                    f"trainer.callbacks: {type(elsewhere).__name__} trains weights that lie between two others, which "
                    "MaxNorm would tear apart; take another optimizer, or leave MaxNorm out"
                )
        self._hooks = [each.register_step_post_hook(self._after_step) for each in trainer.optimizers]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for weight in self._weights if weight.grad is not None]
        project_max_norm_(weights, self.limit)
        elsewhere = find_eval_weights_optimizer(optimizer)
        if elsewhere is not None:
            points = [elsewhere.point(weight) for weight in weights]
            project_max_norm_([point for point in points if point is not None], self.limit)

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Go on with a network that has just lost channels or blocks, between two steps."""
        self._weights = self._find(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the optimizers and of the weights."""
        self._forget()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let go of them."""
        self._forget()

    def _forget(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._weights = [], []
