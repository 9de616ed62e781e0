"""Freezing of a part of the model, for a part of training or permanently."""

from __future__ import annotations

import math

import pytorch_lightning as pl
from torch import nn

from imgrec.callbacks.compatibility import count_steps
from imgrec.callbacks.finetuning.base import Freezing
from imgrec.errors import UserError
from imgrec.models.freezing import NormPolicy, select_frozen
from imgrec.models.utils.patterns import Scope
from imgrec.utils.ranges import OpenUnitInterval, PositiveInt, check_ranges


class Freeze(Freezing):
    """Freezing of parameters, for the first part of training or permanently: a linear probe is `{scope: backbone}`.

    Frozen parameters have no gradient, and the layers before the first trained layer cost a forward pass only. The
    optimizer contains all parameters from the start. Unfrozen parameters use the present learning rate of the schedule,
    and their moments start at zero. The frozen part depends on the position only, and a resumed run is exact. Dropout
    and stochastic depth stay active in frozen parts.

    Args:
        scope: Names or patterns of the frozen parameters, or of modules that contain them. None freezes everything
            except ``all_but``. Defaults to ``backbone``.
        all_but: Names or patterns that stay trainable: ``{scope: null, all_but: [head, "*.bias"]}`` trains the head and
            the biases.
        until: Fraction of training after which all parameters are unfrozen, in (0, 1). By default they stay frozen.
        epochs: Number of epochs after which all parameters are unfrozen, instead of ``until``.
        batch_norm: ``frozen`` uses and keeps the running statistics in a frozen part. ``statistics`` normalizes by
            every batch and updates the running statistics. ``trained`` also trains weights and biases of batch norm.
            Defaults to ``frozen``.

    Raises:
        UserError: If an argument is out of range, or if a pattern matches nothing or leaves nothing to train.
        UserError: If pruning or quantization starts while parameters are frozen.
        UserError: If a finetuning callback of Lightning is used as well.

    Example::

        trainer:
          callbacks:
            - {class_path: Freeze, scope: backbone, until: 0.2}

    See also :class:`GradualUnfreezing`. Use it instead to unfreeze the backbone in stages.

    Source: Kornblith et al. 2019, "Do better ImageNet models transfer better?", arXiv 1805.08974 (linear probe and
    fine-tuning); Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution",
    arXiv 2202.10054 (first the head, then all of it).
    """

    @check_ranges
    def __init__(
        self,
        scope: Scope = "backbone",
        all_but: Scope = None,
        until: OpenUnitInterval | None = None,
        epochs: PositiveInt | None = None,
        batch_norm: NormPolicy = "frozen",
    ) -> None:
        super().__init__(batch_norm)
        if until is not None and epochs is not None:
            raise UserError(f"Freeze.until: expected no value together with epochs {epochs}, got {until:g}.")
        self.scope = scope
        self.all_but = all_but
        self.until = until
        self.epochs = epochs
        self._thaw = math.inf

    @property
    def state_key(self) -> str:
        """Key of the state, which contains the arguments, because a trainer may have several of these callbacks."""
        return self._generate_state_key(scope=self.scope, all_but=self.all_but, until=self.until, epochs=self.epochs)

    def find_stages(self, model: nn.Module) -> list[list[str]]:
        """Return all frozen parameters as one stage."""
        return [select_frozen(model, self.scope, self.all_but, self.batch_norm, "Freeze.scope")]

    def plan(self, trainer: pl.Trainer) -> None:
        """Compute the step at which the parameters are unfrozen."""
        self._thaw = math.inf if self.until is None else step_at(trainer, self.until, "Freeze", "until")

    def thawed(self, trainer: pl.Trainer) -> int:
        """Return 1 if the parameters are unfrozen, and 0 otherwise."""
        if self.epochs is not None:
            return 1 if trainer.current_epoch >= self.epochs else 0
        return 1 if trainer.global_step >= self._thaw else 0

    def last_thaw(self, trainer: pl.Trainer) -> float:
        """Return the fraction of training after which the parameters are unfrozen, or 1 if they stay frozen."""
        if self.epochs is not None:
            return fraction_of(trainer, self.epochs)
        return 1.0 if self.until is None else self.until


def step_at(trainer: pl.Trainer, fraction: float, callback: str, argument: str) -> int:
    """Return the optimizer step at a fraction of training, at least 1.

    Raises:
        UserError: If the training has no limit.
    """
    return max(1, round(fraction * count_steps(trainer, f"{callback}.{argument}")))


def fraction_of(trainer: pl.Trainer, epochs: int) -> float:
    """Return a number of epochs as a fraction of training, at most 1. A training without limit gives 1."""
    return min(1.0, epochs / trainer.max_epochs) if trainer.max_epochs and trainer.max_epochs > 0 else 1.0
