"""Which weights are to be masked, by what, and when: the arguments of unstructured pruning, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import get_args

from torch import nn

from imgrec.compress.pruning.masks import Scope, first_and_last, fit_for, prunable
from imgrec.compress.pruning.schedule import Decisions, Shape
from imgrec.compress.pruning.weight_importance import Criterion
from imgrec.compress.surgery import refuse_parametrized
from imgrec.errors import UserError, suggestion

_GATHERED: dict[Criterion, int] = {"snip": 1, "taylor": 10}
"""The gradients of how many steps a decision rests on."""


class MaskPlan:
    """Which weights are masked, by what, how many of them and when.

    Args:
        sparsity: the share of zeros in the end; 0.9 where no pattern is given.
        criterion: which weights matter.
        scope: ``global`` compares the weights of all layers, ``layer`` prunes each by the same share.
        pattern: ``N:M``, of every M inputs N stay.
        schedule: how the share rises; by default cubic, and at once for snip and a pattern.
        start: the fraction of training at which it begins to; by default 0 for snip, else 0.1.
        end: the fraction at which it is reached; by default 0.6.
        every_n_steps: the optimizer steps between two decisions; by default so many that there are about 50.
        score_steps: the gradients of how many steps a decision rests on, for snip and taylor.
        include: patterns of layer names; by default all but the first layer and the one that gives the logits.
        exclude: patterns of layers to leave dense, in the place of those two.
        where: what messages begin with.

    Raises:
        UserError: a word that is unknown, a number that cannot be, two that contradict each other.

    >>> plan = MaskPlan(pattern="2:4")
    >>> plan.sparsity, plan.schedule, plan.decisions(1000)
    (0.5, 'one_shot', Decisions(first=100, last=100, every=1))
    """

    def __init__(
        self,
        sparsity: float | None = None,
        criterion: Criterion = "magnitude",
        scope: Scope = "global",
        pattern: str | None = None,
        schedule: Shape | None = None,
        start: float | None = None,
        end: float | None = None,
        every_n_steps: int | None = None,
        score_steps: int | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        where: str = "Pruning",
    ) -> None:
        self.where = where
        self._check(criterion, scope, schedule)
        for name, steps in {"every_n_steps": every_n_steps, "score_steps": score_steps}.items():
            if steps is not None and steps < 1:
                raise UserError(f"{where}: `{name}` is 1 or more, got {steps}.")
        for name, value in {"start": start, "end": end}.items():
            if value is not None and not 0 <= value <= 1:
                raise UserError(f"{where}: `{name}` is a fraction of training, from 0 to 1, got {value}.")
        self.criterion: Criterion = criterion
        self.scope: Scope = scope
        self.pattern = None if pattern is None else self._n_of_m(pattern)
        if sparsity is not None and self.pattern is not None:
            raise UserError(f"{where}: the pattern {pattern} is a sparsity; leave out `sparsity`, got {sparsity}.")
        self.sparsity = sparsity if sparsity is not None else self._share
        if not 0 <= self.sparsity < 1:
            raise UserError(f"{where}: `sparsity` is the share of zeros, above 0 and below 1, got {sparsity}.")
        at_once = criterion == "snip" or self.pattern is not None
        self.schedule: Shape = schedule or ("one_shot" if at_once else "cubic")
        self.start = start if start is not None else (0.0 if criterion == "snip" else 0.1)
        self.end = end if end is not None else 0.6
        if self.pattern is not None and self.schedule != "one_shot":
            raise UserError(f'{where}: the pattern {pattern} holds at once, it has no `schedule`; got "{schedule}".')
        if self.schedule != "one_shot" and self.start >= self.end:
            raise UserError(f"{where}: `start` comes before `end`, got {self.start} and {self.end}.")
        if score_steps is not None and criterion not in _GATHERED:
            raise UserError(f"{where}: `score_steps` is for {' and '.join(_GATHERED)}, not for {criterion}.")
        self.score_steps = score_steps or _GATHERED.get(criterion, 1)
        self.every_n_steps = every_n_steps
        self.include = include
        self.exclude = exclude

    def _check(self, criterion: str, scope: str, schedule: str | None) -> None:
        for name, word, type_ in (
            ("criterion", criterion, Criterion),
            ("scope", scope, Scope),
            ("schedule", schedule, Shape),
        ):
            accepted = get_args(type_)
            if word is not None and word not in accepted:
                raise UserError(
                    f'{self.where}: there is no {name} "{word}".{suggestion(word, accepted)} '
                    f"Accepted: {', '.join(accepted)}."
                )

    def _n_of_m(self, pattern: str) -> tuple[int, int]:
        found = re.fullmatch(r"(\d+):(\d+)", pattern)
        n, m = map(int, found.groups()) if found else (0, 0)
        if not 1 <= n < m:
            raise UserError(f'{self.where}: `pattern` is N:M, of every M weights N stay, as in 2:4; got "{pattern}".')
        return n, m

    @property
    def _share(self) -> float:
        return 0.9 if self.pattern is None else 1 - self.pattern[0] / self.pattern[1]

    def layers(self, model: nn.Module) -> tuple[dict[str, nn.Parameter], list[str]]:
        """The weights of a network that may be masked, by name, and the layers that the pattern does not fit.

        Raises:
            UserError: a name matches no layer, or none is left.
        """
        try:
            refuse_parametrized(model)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error
        dense = self.exclude if self.exclude is not None else [] if self.include else first_and_last(model)
        found = prunable(model, self.include or ("*",), dense, self.where)
        if self.pattern is None:
            return found, []
        fitting = fit_for(found, self.pattern[1])
        left = [name.removesuffix(".weight") for name in found if name not in fitting]
        if not fitting:
            raise UserError(
                f"{self.where}: no layer is left for {self.said}: the inputs of none of {', '.join(left[:6])} "
                f"{'and others ' if len(left) > 6 else ''}are a multiple of {self.pattern[1]}"
            )
        return fitting, left

    def decisions(self, steps: int) -> Decisions:
        """At which of so many optimizer steps masks are decided."""
        return Decisions.of(steps, self.start, self.end, self.schedule, self.every_n_steps, self.score_steps)

    @property
    def said(self) -> str:
        """The share, or the pattern, in a few letters."""
        return f"{self.pattern[0]}:{self.pattern[1]}" if self.pattern else f"{self.sparsity:.4g}"
