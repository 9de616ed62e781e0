"""Gradual unfreezing of the backbone, from the head to the input."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import nn

from imgrec.callbacks.finetuning.base import Freezing
from imgrec.callbacks.finetuning.freeze import fraction_of, step_at
from imgrec.errors import UserError
from imgrec.models.freezing import NormPolicy, select_frozen
from imgrec.models.unfreezing_stages import assign_stages, split_stages
from imgrec.models.utils.patterns import Scope
from imgrec.utils.ranges import PositiveInt, RightOpenUnitInterval, check_ranges

warn = rank_zero_only(logging.getLogger(__name__).warning)


class GradualUnfreezing(Freezing):
    """Gradual unfreezing of the stages of a backbone, from the last to the first.

    Training starts with the head only.
    The stages are those of the backbone (the blocks of a ViT, ``layer1`` to ``layer4`` of a ResNet) or those in
    ``stages``. The optimizer contains all parameters from the start, as with :class:`Freeze`, and a resumed run is
    exact.

    Args:
        scope: Initially frozen parameters, see :class:`Freeze`. Defaults to ``backbone``.
        start: Fraction of training at which the first stage is unfrozen, in [0, 1). Defaults to 0.1.
        end: Fraction of training at which the last stage is unfrozen. The others are at equal distances. Defaults to
            0.5.
        every_n_epochs: Number of epochs between two stages, instead of ``start`` and ``end``.
        stages: Stages in order, each a name, a pattern, or a list of these. Frozen parameters in no stage are unfrozen
            last. Defaults to the stages of the backbone, from the last to the first.
        batch_norm: Mode of batch norm in a frozen stage, see :class:`Freeze`. Defaults to ``frozen``.

    Raises:
        UserError: If a condition of :class:`Freeze` is violated.
        UserError: If a stage has no frozen parameter, or if there is only one stage.

    Example::

        trainer:
          callbacks:
            - {class_path: GradualUnfreezing, start: 0.2, end: 0.6}

    See also :class:`Freeze`. Use it instead to unfreeze all parameters at once.

    Source: Howard and Ruder 2018, "Universal language model fine-tuning for text classification", arXiv 1801.06146.
    """

    @check_ranges
    def __init__(
        self,
        scope: Scope = "backbone",
        start: RightOpenUnitInterval = 0.1,
        end: RightOpenUnitInterval = 0.5,
        every_n_epochs: PositiveInt | None = None,
        stages: list[str | list[str]] | None = None,
        batch_norm: NormPolicy = "frozen",
    ) -> None:
        super().__init__(batch_norm)
        if start >= end:
            raise UserError(f"GradualUnfreezing.start: expected a value below end {end:g}, got {start:g}.")
        if stages is not None and len(stages) < 1:
            raise UserError("GradualUnfreezing.stages: expected at least one stage, got [].")
        self.scope = scope
        self.start = start
        self.end = end
        self.every_n_epochs = every_n_epochs
        self.given = stages
        self._at: list[int] = []

    @property
    def state_key(self) -> str:
        """Key of the state, which contains the arguments, because a trainer may have several of these callbacks."""
        return self._generate_state_key(scope=self.scope, stages=self.given)

    def find_stages(self, model: nn.Module) -> list[list[str]]:
        """Return the stages, from the head to the input."""
        where = "GradualUnfreezing"
        frozen = select_frozen(model, self.scope, None, self.batch_norm, f"{where}.scope")
        if self.given is not None:
            scopes: list[Scope] = list(self.given)
            found = assign_stages(model, frozen, scopes, f"{where}.stages")
        else:
            found = [names for _, names in reversed(split_stages(model, frozen))]
        if len(found) < 2:
            raise UserError(
                f"{where}.stages: expected at least two stages with frozen parameters, got one: "
                f"{', '.join(found[0][:3])}, ... List the parts in `stages`, or use Freeze."
            )
        return found

    def plan(self, trainer: pl.Trainer) -> None:
        """Compute the steps of the stages. Warn if training is too short for all."""
        count = len(self.stages)
        if self.every_n_epochs is None:
            share = (self.end - self.start) / max(1, count - 1)
            fractions = [self.start + share * number for number in range(count)]
            self._at = [0 if each == 0 else step_at(trainer, each, "GradualUnfreezing", "start") for each in fractions]
        elif trainer.max_epochs is not None and 0 < trainer.max_epochs <= self.every_n_epochs * count:
            warn(
                "GradualUnfreezing: %d stages, one every %d epoch(s), do not fit in %d epochs. Part of the model stays "
                "frozen.",
                *(count, self.every_n_epochs, trainer.max_epochs),
            )

    def thawed(self, trainer: pl.Trainer) -> int:
        """Return the number of unfrozen stages."""
        if self.every_n_epochs is not None:
            return min(len(self.stages), trainer.current_epoch // self.every_n_epochs)
        step = trainer.global_step
        return sum(step >= at for at in self._at)

    def last_thaw(self, trainer: pl.Trainer) -> float:
        """Return the fraction of training at which the last stage is unfrozen."""
        if self.every_n_epochs is None:
            return self.end
        return fraction_of(trainer, self.every_n_epochs * len(self.stages))
