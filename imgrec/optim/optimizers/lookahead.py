"""Lookahead: slow weights that follow the weights of another optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from imgrec.errors import UserError
from imgrec.optim.optimizers.averaged import EvalWeightsOptimizer, find_eval_weights_optimizer
from imgrec.optim.optimizers.registry import OPTIMIZERS
from imgrec.optim.optimizers.wrapper import OptimizerWrapper, trained_parameters
from imgrec.utils.ranges import LeftOpenUnitInterval, PositiveInt, check_ranges

_SLOW, _STEPS = "slow", "lookahead_steps"


@torch.no_grad()
def follow_(slow: Sequence[Tensor], fast: Sequence[Tensor], alpha: float) -> None:
    """Move the slow weights towards the fast weights by ``alpha`` and copy them to the fast weights, in place.

    >>> slow, fast = torch.zeros(2), torch.ones(2)
    >>> follow_([slow], [fast], alpha=0.25)
    >>> slow.tolist(), fast.tolist()
    ([0.25, 0.25], [0.25, 0.25])
    """
    torch._foreach_lerp_(list(slow), list(fast), alpha)
    torch._foreach_copy_(list(fast), list(slow))


@OPTIMIZERS.register("lookahead")
class Lookahead(EvalWeightsOptimizer, OptimizerWrapper):
    """Lookahead around another optimizer: every few steps the slow weights move towards the fast weights.

    The fast weights continue from the slow weights. Validation, testing and the saved model use the slow weights,
    unless the callback EMA averages the fast weights. The slow weights start at the initial weights and are part of the
    optimizer state.

    Args:
        base: Optimizer of the fast steps, with its ``lr``.
        every: Number of fast steps per slow step, at least 1. Defaults to 5.
        alpha: Step size of the slow weights, in (0, 1]. Defaults to 0.5.

    Raises:
        UserError: If a number is out of range, or if ``base`` already has evaluation weights.

    See Also:
        The callback EMA. Use it instead if the optimizer steps should not change.

    Source: Zhang et al., Lookahead Optimizer: k Steps Forward, 1 Step Back, 2019, arXiv:1907.08610.

    Example::

        optimizer: {name: lookahead, every: 5, alpha: 0.5, base: {name: adamw, lr: 0.002}}

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Lookahead(torch.optim.SGD([weight], lr=1.0), every=1, alpha=0.5)
    >>> weight.grad = torch.tensor([1.0])
    >>> optimizer.step()
    >>> weight.item()  # half of the step
    0.5
    """

    @check_ranges
    def __init__(
        self, base: Annotated[Any, OPTIMIZERS], every: PositiveInt = 5, alpha: LeftOpenUnitInterval = 0.5
    ) -> None:
        super().__init__(base)
        if find_eval_weights_optimizer(base) is not None:
            raise UserError(f"base: expected an optimizer without evaluation weights, got {type(base).__name__}.")
        self.every = every
        self.alpha = alpha
        for group in self.param_groups:
            group.setdefault(_STEPS, 0)

    def evaluated(self) -> list[tuple[Tensor, Tensor]]:
        """Return the slow weights."""
        return [(p, self.state[p][_SLOW]) for p in trained_parameters(self) if _SLOW in self.state.get(p, {})]

    def point(self, parameter: Tensor) -> Tensor | None:
        """Return the slow weight."""
        found: Tensor | None = self.state.get(parameter, {}).get(_SLOW)
        return found

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a fast step and, after every ``every`` steps, a slow step.

        Args:
            closure: Closure of the wrapped optimizer.
        """
        # stored after the step, because an optimizer initializes only parameters without a state
        initial = {p: p.detach().clone() for p in trained_parameters(self) if _SLOW not in self.state.get(p, {})}
        loss = self.base.step(closure)
        for group in self.param_groups:
            stepped = [p for p in group["params"] if p.grad is not None]
            for parameter in stepped:
                if parameter in initial:
                    self.state[parameter][_SLOW] = initial[parameter]
            group[_STEPS] = group.get(_STEPS, 0) + 1
            if group[_STEPS] % self.every == 0 and stepped:
                follow_([self.state[p][_SLOW] for p in stepped], stepped, self.alpha)
        return loss
