"""Lookahead: slow weights that follow the weights of another optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.optim.optimizers.averaged import EvaluatedElsewhere, evaluated_elsewhere
from imgrec.optim.optimizers.registry import OPTIMIZERS
from imgrec.optim.optimizers.wrapper import OptimizerWrapper, trained_parameters

_SLOW, _STEPS = "slow", "lookahead_steps"


@torch.no_grad()
def follow_(slow: Sequence[Tensor], fast: Sequence[Tensor], alpha: float) -> None:
    """The slow weights go ``alpha`` of the way to the fast ones, which go on from there; both in place.

    >>> slow, fast = torch.zeros(2), torch.ones(2)
    >>> follow_([slow], [fast], alpha=0.25)
    >>> slow.tolist(), fast.tolist()
    ([0.25, 0.25], [0.25, 0.25])
    """
    torch._foreach_lerp_(list(slow), list(fast), alpha)
    torch._foreach_copy_(list(fast), list(slow))


@OPTIMIZERS.register("lookahead")
class Lookahead(EvaluatedElsewhere, OptimizerWrapper):
    """Lookahead around another optimizer: every few steps, slow weights go a part of the way to the fast ones.

    The fast weights go on from the slow ones then. What is validated, tested and kept is the slow weights, except where
    the callback EMA averages the fast ones; they begin where training begins, and are in the optimizer's state.

    Args:
        base: the optimizer that makes the fast steps, and its `lr`.
        every: the number of fast steps to a slow one.
        alpha: how much of the way the slow weights go, above 0 and at most 1.

    Source: Zhang et al., Lookahead Optimizer: k Steps Forward, 1 Step Back, 2019, arXiv:1907.08610.

    Example::

        optimizer: {name: lookahead, every: 5, alpha: 0.5, base: {name: adamw, lr: 0.002}}
    """

    def __init__(self, base: Annotated[Any, OPTIMIZERS], every: int = 5, alpha: float = 0.5) -> None:
        self.check_arguments(every, alpha)
        super().__init__(base)
        if evaluated_elsewhere(base) is not None:
            raise UserError(f"`base`: {type(base).__name__} is evaluated at other weights than it trains already.")
        self.every = every
        self.alpha = alpha
        for group in self.param_groups:
            group.setdefault(_STEPS, 0)

    @staticmethod
    def check_arguments(every: int = 5, alpha: float = 0.5, **given: Any) -> None:
        """Refuse numbers that cannot be."""
        if every < 1:
            raise UserError(f"`every` must be 1 or more, got {every}.")
        in_range("alpha", alpha, high=1.0, open_low=True)

    def evaluated(self) -> list[tuple[Tensor, Tensor]]:
        """The slow weights."""
        return [(p, self.state[p][_SLOW]) for p in trained_parameters(self) if _SLOW in self.state.get(p, {})]

    def point(self, parameter: Tensor) -> Tensor | None:
        """The slow weight."""
        found: Tensor | None = self.state.get(parameter, {}).get(_SLOW)
        return found

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A fast step, and where it is time to, a slow one.

        Args:
            closure: handed on.
        """
        # kept after the step: an optimizer takes a parameter with a state for one that it knows
        begun = {p: p.detach().clone() for p in trained_parameters(self) if _SLOW not in self.state.get(p, {})}
        loss = self.base.step(closure)
        for group in self.param_groups:
            stepped = [p for p in group["params"] if p.grad is not None]
            for parameter in stepped:
                if parameter in begun:
                    self.state[parameter][_SLOW] = begun[parameter]
            group[_STEPS] = group.get(_STEPS, 0) + 1
            if group[_STEPS] % self.every == 0 and stepped:
                follow_([self.state[p][_SLOW] for p in stepped], stepped, self.alpha)
        return loss
