"""Configuration of unstructured pruning: selected weights, criterion, sparsity and schedule."""

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
from imgrec.utils.ranges import ClosedUnitInterval, PositiveInt, RightOpenUnitInterval, check_ranges

_SCORE_STEPS: dict[Criterion, int] = {"snip": 1, "taylor": 10}
"""Default number of steps whose gradients a decision uses."""


class MaskConfig:
    """Checked configuration of unstructured pruning, with every default resolved.

    The arguments are documented in :class:`imgrec.Pruning`, which repeats only their names.

    Args:
        where: Name of the user of the configuration, for messages. Defaults to ``"Pruning"``.

    Raises:
        UserError: If an argument is out of range, if a name is unknown, or if two arguments contradict each other.

    Example:
        >>> config = MaskConfig(pattern="2:4")
        >>> config.sparsity, config.schedule, config.plan_decisions(1000)
        (0.5, 'one_shot', Decisions(first=100, last=100, every=1))
    """

    @check_ranges
    def __init__(
        self,
        sparsity: RightOpenUnitInterval | None = None,
        criterion: Criterion = "magnitude",
        scope: Scope = "global",
        pattern: str | None = None,
        schedule: Shape | None = None,
        start: ClosedUnitInterval | None = None,
        end: ClosedUnitInterval | None = None,
        every_n_steps: PositiveInt | None = None,
        score_steps: PositiveInt | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        where: str = "Pruning",
    ) -> None:
        self.where = where
        self._check_names(criterion=(criterion, Criterion), scope=(scope, Scope), schedule=(schedule, Shape))
        self.criterion: Criterion = criterion
        self.scope: Scope = scope
        self.pattern = None if pattern is None else self._parse_pattern(pattern)
        if sparsity is not None and self.pattern is not None:
            raise UserError(f"{where}.sparsity: expected no value together with pattern {pattern}, got {sparsity}.")
        self.sparsity = sparsity if sparsity is not None else self._default_sparsity
        one_shot = criterion == "snip" or self.pattern is not None
        self.schedule: Shape = schedule or ("one_shot" if one_shot else "cubic")
        self.start = start if start is not None else (0.0 if criterion == "snip" else 0.1)
        self.end = end if end is not None else 0.6
        if self.pattern is not None and self.schedule != "one_shot":
            raise UserError(f"{where}.schedule: expected one_shot together with pattern {pattern}, got {schedule}.")
        if self.schedule != "one_shot" and self.start >= self.end:
            raise UserError(f"{where}.start: expected a value below end {self.end}, got {self.start}.")
        if score_steps is not None and criterion not in _SCORE_STEPS:
            raise UserError(
                f"{where}.score_steps: expected no value with criterion {criterion}, got {score_steps}. It applies to "
                f"{' and '.join(_SCORE_STEPS)}."
            )
        self.score_steps = score_steps or _SCORE_STEPS.get(criterion, 1)
        self.every_n_steps = every_n_steps
        self.include = include
        self.exclude = exclude

    def _check_names(self, **given: tuple[str | None, object]) -> None:
        for key, (name, names) in given.items():
            accepted = get_args(names)
            if name is not None and name not in accepted:
                raise UserError(
                    f'{self.where}.{key}: expected one of {", ".join(accepted)}, got "{name}".'
                    f"{suggestion(name, accepted)}"
                )

    def _parse_pattern(self, pattern: str) -> tuple[int, int]:
        match = re.fullmatch(r"(\d+):(\d+)", pattern)
        n, m = map(int, match.groups()) if match else (0, 0)
        if not 1 <= n < m:
            raise UserError(f'{self.where}.pattern: expected N:M with 1 <= N < M, such as 2:4, got "{pattern}".')
        return n, m

    @property
    def _default_sparsity(self) -> float:
        return 0.9 if self.pattern is None else 1 - self.pattern[0] / self.pattern[1]

    def select_layers(self, model: nn.Module) -> tuple[dict[str, nn.Parameter], list[str]]:
        """Return the weights that may be masked, by name, and the names of the layers that the pattern does not fit.

        Raises:
            UserError: If a pattern of names matches no layer, or if no layer is left.
        """
        try:
            refuse_parametrized(model)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from error
        dense = self.exclude if self.exclude is not None else [] if self.include else first_and_last(model)
        weights = prunable(model, self.include or ("*",), dense, self.where)
        if self.pattern is None:
            return weights, []
        fitting = fit_for(weights, self.pattern[1])
        unfit = [name.removesuffix(".weight") for name in weights if name not in fitting]
        if not fitting:
            raise UserError(
                f"{self.where}.pattern: expected a layer whose number of inputs is a multiple of {self.pattern[1]}, "
                f"got {', '.join(unfit[:6])}{' and others' if len(unfit) > 6 else ''}."
            )
        return fitting, unfit

    def plan_decisions(self, num_steps: int) -> Decisions:
        """Return the optimizer steps at which masks are decided, in a training of ``num_steps`` steps."""
        return Decisions.from_fractions(
            num_steps, self.start, self.end, self.schedule, self.every_n_steps, self.score_steps
        )

    def describe(self) -> str:
        """Return the pattern or the sparsity as short text.

        Example:
            >>> MaskConfig(pattern="2:4").describe(), MaskConfig(sparsity=0.9).describe()
            ('2:4', '0.9')
        """
        return f"{self.pattern[0]}:{self.pattern[1]}" if self.pattern else f"{self.sparsity:.4g}"
