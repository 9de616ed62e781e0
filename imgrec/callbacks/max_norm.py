"""Max-norm constraint on the weights of filters and of rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from imgrec.callbacks.compatibility import require_whole_weights
from imgrec.errors import UserError
from imgrec.models.utils.patterns import Scope, in_scope, scope_names
from imgrec.optim.max_norm import project_max_norm_
from imgrec.optim.optimizers.averaged import find_eval_weights_optimizer
from imgrec.tasks.callback import Callback
from imgrec.utils.ranges import PositiveFloat, check_ranges

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class MaxNorm(Callback):
    """Max-norm constraint, which limits the Euclidean norm of the weights of every filter or matrix row.

    Longer filters are scaled down after every optimizer step. It allows large learning rates, and was introduced for
    dropout in networks without batch normalization. With batch normalization the norm of a filter has no effect on the
    output. The callback has no state, and a resumed run is exact. The average of EMA stays within the limit.

    Args:
        limit: Largest norm, above 0. Usual values are 2 to 4. Defaults to 3.
        scope: Names or patterns of the weights, or of modules that contain them. Defaults to all convolutions and
            linear layers.

    Raises:
        UserError: If ``limit`` is out of range, or if ``scope`` matches no such weight.
        UserError: If a weight is computed from other tensors (weight normalization, LoRA).
        UserError: If the optimizer is schedule-free, or if the strategy shards the weights.

    Example::

        trainer:
          callbacks:
            - {class_path: MaxNorm, limit: 3.0}

    Source: Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting", JMLR 15,
    section 5.1.
    """

    runs_in_short_runs = True

    @check_ranges
    def __init__(self, limit: PositiveFloat = 3.0, scope: str | list[str] | None = None) -> None:
        self.limit = limit
        self.scope: Scope = scope
        self._weights: list[nn.Parameter] = []
        self._hooks: list[RemovableHandle] = []

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the strategy and the weights."""
        require_whole_weights(trainer, "MaxNorm")
        self._find(pl_module)

    def _find(self, pl_module: pl.LightningModule) -> list[nn.Parameter]:
        model = getattr(pl_module, "model", None)
        network = model if isinstance(model, nn.Module) else pl_module
        where = "MaxNorm.scope"
        scope_names(network, self.scope, where)
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
                f"{where}: expected layers that store their weight, got {computed[0]}, whose weight is computed from "
                "other tensors (weight normalization, LoRA)."
            )
        if not found:
            raise UserError(f"{where}: expected a weight of a convolution or a linear layer, got {self.scope!r}.")
        return found

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Register a hook after every optimizer step."""
        self.validate_model(trainer, pl_module)  # a trainer without a run recorder does not call it
        self._weights = self._find(pl_module)
        for optimizer in trainer.optimizers:
            averaged = find_eval_weights_optimizer(optimizer)
            if averaged is not None and averaged.averages_alone:
                raise UserError(
                    f"model.optimizer: expected an optimizer without averaging together with MaxNorm, got "
                    f"{type(averaged).__name__}."
                )
        self._hooks = [each.register_step_post_hook(self._after_step) for each in trainer.optimizers]

    def _after_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for weight in self._weights if weight.grad is not None]
        project_max_norm_(weights, self.limit)
        averaged = find_eval_weights_optimizer(optimizer)
        if averaged is not None:
            points = [averaged.point(weight) for weight in weights]
            project_max_norm_([point for point in points if point is not None], self.limit)

    def on_weights_pruned(self, pl_module: pl.LightningModule, kept_indices: Mapping[str, Tensor]) -> None:
        """Use the weights of the changed model."""
        self._weights = self._find(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._weights = [], []
