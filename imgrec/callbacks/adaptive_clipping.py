"""Adaptive gradient clipping, before each optimizer step."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from imgrec.callbacks.compatibility import require_whole_weights
from imgrec.errors import UserError
from imgrec.models.utils.patterns import Scope, scope_names
from imgrec.optim.gradient_clipping import clip_adaptively_
from imgrec.tasks.callback import Callback
from imgrec.utils.ranges import PositiveFloat, check_ranges


class AdaptiveClipping(Callback):
    """Adaptive gradient clipping, which limits the gradient of every unit relative to the norm of its weights.

    It uses the gradients of the optimizer step: accumulated, reduced over all processes and unscaled. Clipping by
    ``trainer.gradient_clip_val`` comes after it. As in the paper, the output layer is not clipped.

    Args:
        factor: Largest ratio of the gradient norm of a unit to the norm of its weights, above 0. Defaults to 0.01.
        eps: Minimum norm of the weights of a unit, above 0. Defaults to 1e-3.
        exclude: Names or patterns of parameters, or of modules that contain them, that are not clipped. None clips all.
            Defaults to ``"head"``.

    Raises:
        UserError: If an argument is out of range, if ``exclude`` matches nothing or everything, or if the strategy
            shards the weights.

    Example::

        trainer:
          callbacks:
            - {class_path: AdaptiveClipping, factor: 0.01}

    Source: Brock et al. 2021, "High-performance large-scale image recognition without normalization",
    arXiv 2102.06171.
    """

    runs_in_short_runs = True

    @check_ranges
    def __init__(
        self, factor: PositiveFloat = 0.01, eps: PositiveFloat = 1e-3, exclude: str | list[str] | None = "head"
    ) -> None:
        self.factor = factor
        self.eps = eps
        self.exclude: Scope = exclude

        self._clipped: list[Tensor] = []

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select the parameters to clip."""
        require_whole_weights(trainer, "AdaptiveClipping")
        network = getattr(pl_module, "model", None)
        network = network if isinstance(network, nn.Module) else pl_module
        where = "AdaptiveClipping.exclude"
        excluded = set() if self.exclude is None else set(scope_names(network, self.exclude, where))
        self._clipped = [p for name, p in network.named_parameters() if name not in excluded]
        if not self._clipped:
            raise UserError(f"{where}: expected a parameter to clip, got none after excluding {self.exclude!r}.")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Select the parameters, if the trainer has no run recorder."""
        if not self._clipped:
            self.validate_model(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip the gradients."""
        pairs = [(p.grad, p.detach()) for p in self._clipped if p.grad is not None]
        clip_adaptively_([g for g, _ in pairs], [w for _, w in pairs], self.factor, self.eps)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Release the parameters."""
        self._clipped = []
