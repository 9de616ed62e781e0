"""Optimizers that compute gradients at one point and mean another: the weights that are evaluated and kept."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imgrec.optim.optimizers.wrapper import chain


class EvaluatedElsewhere(Optimizer):
    """An optimizer whose result is not where the weights stand while it trains.

    ``eval()`` puts the result into the parameters, ``train()`` puts the weights back, bit for bit. A task of imgrec
    does so around validation and at the end of training, and keeps the result as a checkpoint's ``state_dict``; the
    weights that training goes on with are in the optimizer's own state, and are put in their place when it is loaded.
    """

    averages_alone: bool = False
    """Whether what is evaluated is an average of all steps already, so that averaging it once more is a mistake."""

    swaps: bool = True
    """Whether the two change places at all; not where something else averages the weights."""

    _weights: list[tuple[Tensor, Tensor]] | None = None

    @abstractmethod
    def evaluated(self) -> list[tuple[Tensor, Tensor]]:
        """Parameters, and what they are to be evaluated as; those that have had no step yet are left out."""

    @abstractmethod
    def point(self, parameter: Tensor) -> Tensor | None:
        """What the optimizer's state holds beside a parameter that is a weight, too, and is masked as the weight is."""

    @torch.no_grad()
    def eval(self) -> None:
        """Put what is evaluated into the parameters."""
        if self._weights is None and self.swaps:
            pairs = self.evaluated()
            self._weights = [(parameter, parameter.detach().clone()) for parameter, _ in pairs]
            for parameter, value in pairs:
                parameter.copy_(value)

    @torch.no_grad()
    def train(self) -> None:
        """Put the weights that are trained back."""
        for parameter, weights in self._weights or ():
            parameter.copy_(weights)
        self._weights = None

    def state_dict(self) -> dict[str, Any]:
        """As ever, and ``weights``: those that are trained, in the order of the groups."""
        state = super().state_dict()
        if self.swaps:
            kept = {id(parameter): weights for parameter, weights in self._weights or ()}
            state["weights"] = [kept.get(id(p), p.detach()) for group in self.param_groups for p in group["params"]]
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As ever, and the weights that are trained go into the parameters."""
        super().load_state_dict(state_dict)
        self._weights = None
        if self.swaps and "weights" in state_dict:
            parameters = [p for group in self.param_groups for p in group["params"]]
            for parameter, weights in zip(parameters, state_dict["weights"], strict=True):
                parameter.copy_(weights)


def evaluated_elsewhere(optimizer: Optimizer) -> EvaluatedElsewhere | None:
    """The one of that kind among an optimizer and those inside it."""
    return next((each for each in chain(optimizer) if isinstance(each, EvaluatedElsewhere)), None)
