"""GradualUnfreezing: stage after stage begins to train, from the head to the images."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from torch import nn

from imgrec.callbacks.finetuning.base import Freezing
from imgrec.callbacks.finetuning.freeze import fraction_of, step_at
from imgrec.errors import UserError
from imgrec.models.freezing import NormPolicy, frozen_names, named_stages, stages_of
from imgrec.models.utils.patterns import Scope
from imgrec.utils.checks import at_least_one

warn = rank_zero_only(logging.getLogger(__name__).warning)


class GradualUnfreezing(Freezing):
    """Begins with the head alone and thaws the backbone stage by stage, the one next to the head first.

    The stages are what the network itself says its stages are (the blocks of a ViT, `layer1` to `layer4` of a ResNet),
    or those that `stages` names. For the rest it is as :class:`Freeze`: the optimizer has all parameters from the
    start, what is frozen depends on the position alone, and a resumed run goes on exactly.

    Args:
        scope: what is frozen at first; see :class:`Freeze`.
        start: the fraction of training at which the first stage thaws; 0: it trains from the beginning.
        end: the fraction at which the last one does; the others in equal steps between.
        every_n_epochs: in the place of both: one stage more at the beginning of each so-many-th epoch.
        stages: in the order in which they thaw, each a name, a pattern or a list of such; what is frozen and in none of
            them thaws last. By default the stages of the network, from the last to the first.
        batch_norm: what batch norm does in a frozen stage; see :class:`Freeze`.

    Raises:
        UserError: as :class:`Freeze`; a stage in which nothing is frozen; one stage alone.

    Example::

        trainer:
          callbacks:
            - {class_path: GradualUnfreezing, start: 0.2, end: 0.6}

    Source: Howard and Ruder 2018, "Universal language model fine-tuning for text classification", arXiv 1801.06146.
    """

    def __init__(
        self,
        scope: Scope = "backbone",
        start: float = 0.1,
        end: float = 0.5,
        every_n_epochs: int | None = None,
        stages: list[str | list[str]] | None = None,
        batch_norm: NormPolicy = "frozen",
    ) -> None:
        super().__init__(batch_norm)
        for name, value in {"start": start, "end": end}.items():
            if not 0 <= value < 1:
                raise UserError(
                    f"GradualUnfreezing: `{name}` is a fraction of training, from 0 to below 1, got {value}."
                )
        if start >= end:
            raise UserError(f"GradualUnfreezing: `start` comes before `end`, got {start:g} and {end:g}.")
        if every_n_epochs is not None:
            at_least_one("GradualUnfreezing", every_n_epochs=every_n_epochs)
        if stages is not None and len(stages) < 1:
            raise UserError("GradualUnfreezing: `stages` names one stage at least, got [].")
        self.scope = scope
        self.start = start
        self.end = end
        self.every_n_epochs = every_n_epochs
        self.given = stages
        self._at: list[int] = []

    @property
    def state_key(self) -> str:
        """Several of them have a state each."""
        return self._generate_state_key(scope=self.scope, stages=self.given)

    def find_stages(self, model: nn.Module) -> list[list[str]]:
        """The stages of the network, or those that are named, from the head to the images."""
        where = "trainer.callbacks: GradualUnfreezing"
        frozen = frozen_names(model, self.scope, None, self.batch_norm, f"{where}, scope")
        if self.given is not None:
            scopes: list[Scope] = list(self.given)
            found = named_stages(model, frozen, scopes, f"{where}, stages")
        else:
            found = [names for _, names in reversed(stages_of(model, frozen))]
        if len(found) < 2:
            raise UserError(
                f"{where}: all that is frozen is one stage, {', '.join(found[0][:3])} and so on; name the parts in "
                "`stages`, or take Freeze."
            )
        return found

    def plan(self, trainer: pl.Trainer) -> None:
        """The steps at which the stages thaw; say where training is too short for all of them."""
        count = len(self.stages)
        if self.every_n_epochs is None:
            share = (self.end - self.start) / max(1, count - 1)
            fractions = [self.start + share * number for number in range(count)]
            self._at = [0 if each == 0 else step_at(trainer, each, "GradualUnfreezing", "start") for each in fractions]
        elif trainer.max_epochs is not None and 0 < trainer.max_epochs <= self.every_n_epochs * count:
            warn(
                "GradualUnfreezing: %d stages, one in every %d epoch(s), and training ends after %d: part of the "
                "network stays frozen",
                *(count, self.every_n_epochs, trainer.max_epochs),
            )

    def thawed(self, trainer: pl.Trainer) -> int:
        """How many stages are thawed."""
        if self.every_n_epochs is not None:
            return min(len(self.stages), trainer.current_epoch // self.every_n_epochs)
        step = trainer.global_step
        return sum(step >= at for at in self._at)

    def last_thaw(self, trainer: pl.Trainer) -> float:
        """The fraction of training at which the last stage thaws."""
        if self.every_n_epochs is None:
            return self.end
        return fraction_of(trainer, self.every_n_epochs * len(self.stages))
