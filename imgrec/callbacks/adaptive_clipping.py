"""Adaptive gradient clipping, before each optimizer step."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.models.utils.patterns import Scope, scope_names
from imgrec.optim.gradient_clipping import clip_adaptively_
from imgrec.tasks.callback import Callback


class AdaptiveClipping(Callback):
    """Scales each unit's gradient down to a part of the norm of the unit's weights, before every optimizer step.

    Gradients are those of the step: accumulated, gathered from all processes, unscaled. It goes with
    ``trainer.gradient_clip_val``, which comes after it, and with any optimizer. The paper leaves the output layer
    alone, and so does this.

    Args:
        factor: the largest ratio of the norm of a unit's gradient to that of its weights, above 0.
        eps: the least norm that a unit's weights are taken to have.
        exclude: names or patterns of parameters, or of modules that hold them, that are left alone; ``null``: none.

    Raises:
        UserError: a number that cannot be, a pattern that means nothing or everything, a strategy that shards the
            weights.

    Example::

        trainer:
          callbacks:
            - {class_path: AdaptiveClipping, factor: 0.01}

    Source: Brock et al. 2021, "High-performance large-scale image recognition without normalization",
    arXiv 2102.06171.
    """

    runs_in_short_runs = True

    def __init__(self, factor: float = 0.01, eps: float = 1e-3, exclude: str | list[str] | None = "head") -> None:
        try:
            self.factor = in_range("factor", factor, open_low=True)
            self.eps = in_range("eps", eps, open_low=True)
        except UserError as error:
            raise UserError(f"AdaptiveClipping: {error}") from error
        self.exclude: Scope = exclude

        self._clipped: list[Tensor] = []

    def validate_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find what is clipped; called before anything is written.

        Raises:
            UserError: a pattern means nothing or everything, or the weights are sharded.
        """
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy):
            raise UserError(
                f"AdaptiveClipping needs whole weights, and {type(trainer.strategy).__name__} shards them: take "
                "strategy: ddp, or trainer.gradient_clip_val."
            )
        network = getattr(pl_module, "model", None)
        network = network if isinstance(network, nn.Module) else pl_module
        where = "trainer.callbacks: AdaptiveClipping, exclude"
        left_out = set() if self.exclude is None else set(scope_names(network, self.exclude, where))
        self._clipped = [p for name, p in network.named_parameters() if name not in left_out]
        if not self._clipped:
            raise UserError(f"{where}: it leaves nothing to be clipped.")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find what is clipped, where the run's recorder has not asked yet."""
        if not self._clipped:
            self.validate_model(trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Clip."""
        pairs = [(p.grad, p.detach()) for p in self._clipped if p.grad is not None]
        clip_adaptively_([g for g, _ in pairs], [w for _, w in pairs], self.factor, self.eps)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the weights."""
        self._clipped = []
