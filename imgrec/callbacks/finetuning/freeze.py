"""Freeze: part of the network stays as it is, for a while or for good."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
from torch import nn

from imgrec.callbacks.finetuning.base import Freezing
from imgrec.errors import UserError
from imgrec.models.freezing import NormPolicy, frozen_names
from imgrec.models.utils.patterns import Scope
from imgrec.utils.checks import at_least_one


class Freeze(Freezing):
    """Keeps parameters as they are, for the first part of training or for good: a linear probe is `{scope: backbone}`.

    What is frozen has no gradient: the network in front of the first layer that trains costs a forward pass alone. The
    optimizer has all parameters from the start; when frozen ones thaw, they train at the learning rate that the
    schedule has come to, with moments that begin there. Which parameters train depends on the position alone, and a
    resumed run goes on exactly. Dropout and stochastic depth go on in frozen parts, as the network's arguments say.

    Args:
        scope: what is frozen: names of parameters or of modules that hold them, or patterns of such names; ``null``:
            everything, to be narrowed by ``all_but``.
        all_but: what is not, though ``scope`` means it: ``{scope: null, all_but: [head, "*.bias"]}`` trains the head
            and the biases.
        until: the fraction of training at which all of it thaws; by default never.
        epochs: or the number of epochs after which it does.
        batch_norm: ``frozen`` normalizes by the running statistics in a frozen part, as in validation, and leaves them;
            ``statistics`` goes on normalizing by each batch, and the running statistics follow the new images;
            ``trained`` trains the weights and biases of batch norm, too.

    Raises:
        UserError: a pattern that matches nothing, or leaves nothing to train; a number that cannot be; pruning or
            quantization that begins while something is frozen; Lightning's own callbacks for this.

    Example::

        trainer:
          callbacks:
            - {class_path: Freeze, scope: backbone, until: 0.2}

    Source: Kornblith et al. 2019, "Do better ImageNet models transfer better?", arXiv 1805.08974 (linear probe and
    fine-tuning); Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform out-of-distribution",
    arXiv 2202.10054 (first the head, then all of it).
    """

    def __init__(
        self,
        scope: Scope = "backbone",
        all_but: Scope = None,
        until: float | None = None,
        epochs: int | None = None,
        batch_norm: NormPolicy = "frozen",
    ) -> None:
        super().__init__(batch_norm)
        if until is not None and epochs is not None:
            raise UserError(f"Freeze: give either `until` or `epochs`, not both, got {until:g} and {epochs}.")
        if until is not None and not 0 < until < 1:
            raise UserError(f"Freeze: `until` is a fraction of training, above 0 and below 1, got {until}.")
        if epochs is not None:
            at_least_one("Freeze", epochs=epochs)
        self.scope = scope
        self.all_but = all_but
        self.until = until
        self.epochs = epochs
        self._thaw = math.inf

    @property
    def state_key(self) -> str:
        """Several of them have a state each."""
        return self._generate_state_key(scope=self.scope, all_but=self.all_but, until=self.until, epochs=self.epochs)

    def find_stages(self, model: nn.Module) -> list[list[str]]:
        """All that is frozen, at once."""
        return [frozen_names(model, self.scope, self.all_but, self.batch_norm, "trainer.callbacks: Freeze, scope")]

    def plan(self, trainer: pl.Trainer) -> None:
        """The step of the thaw, where it is a fraction of training."""
        self._thaw = math.inf if self.until is None else step_at(trainer, self.until, "Freeze", "until")

    def thawed(self, trainer: pl.Trainer) -> int:
        """Whether it is thawed."""
        if self.epochs is not None:
            return 1 if trainer.current_epoch >= self.epochs else 0
        return 1 if trainer.global_step >= self._thaw else 0

    def last_thaw(self, trainer: pl.Trainer) -> float:
        """The fraction of training at which it thaws; 1 where it never does."""
        if self.epochs is not None:
            return fraction_of(trainer, self.epochs)
        return 1.0 if self.until is None else self.until


def step_at(trainer: pl.Trainer, fraction: float, callback: str, argument: str) -> int:
    """The optimizer step that begins at a fraction of training, one at least.

    Raises:
        UserError: nobody knows how long training is.
    """
    steps: Any = trainer.estimated_stepping_batches
    if not math.isfinite(steps) or steps < 0:
        raise UserError(
            f"{callback}: `{argument}` is a fraction of training: set trainer.max_epochs or trainer.max_steps."
        )
    step: int = round(fraction * steps)
    return max(1, step)


def fraction_of(trainer: pl.Trainer, epochs: int) -> float:
    """The fraction of training that so many epochs are; 1 at most, and where nobody knows."""
    return min(1.0, epochs / trainer.max_epochs) if trainer.max_epochs and trainer.max_epochs > 0 else 1.0
