"""Optimizers whose evaluation weights differ from the training weights (Lookahead, schedule-free)."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imgrec.optim.optimizers.wrapper import chain


class EvalWeightsOptimizer(Optimizer):
    """Base class of optimizers whose evaluation weights differ from the training weights.

    ``eval()`` copies the evaluation weights to the parameters, and ``train()`` restores the training weights exactly. A
    task of imgrec calls them around validation and at the end of training. The ``state_dict`` of a checkpoint holds the
    evaluation weights. The training weights are in the optimizer state, and loading it restores them.
    """

    averages_alone: bool = False
    """True if the evaluation weights are an average of all steps, which should not be averaged again."""

    swaps: bool = True
    """True if ``eval()`` swaps the weights. False if a callback averages the weights instead."""

    _weights: list[tuple[Tensor, Tensor]] | None = None

    @abstractmethod
    def evaluated(self) -> list[tuple[Tensor, Tensor]]:
        """Return parameters with their evaluation weights, without parameters that have had no step."""

    @abstractmethod
    def point(self, parameter: Tensor) -> Tensor | None:
        """Return the weight in the optimizer state that belongs to a parameter and is masked with it, or ``None``."""

    @torch.no_grad()
    def eval(self) -> None:
        """Copy the evaluation weights to the parameters."""
        if self._weights is None and self.swaps:
            pairs = self.evaluated()
            self._weights = [(parameter, parameter.detach().clone()) for parameter, _ in pairs]
            for parameter, value in pairs:
                parameter.copy_(value)

    @torch.no_grad()
    def train(self) -> None:
        """Restore the training weights."""
        for parameter, weights in self._weights or ():
            parameter.copy_(weights)
        self._weights = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state dict of torch with ``weights``, the training weights in the order of the groups."""
        state = super().state_dict()
        if self.swaps:
            stored = {id(parameter): weights for parameter, weights in self._weights or ()}
            state["weights"] = [stored.get(id(p), p.detach()) for group in self.param_groups for p in group["params"]]
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state dict and copy the training weights to the parameters."""
        super().load_state_dict(state_dict)
        self._weights = None
        if self.swaps and "weights" in state_dict:
            parameters = [p for group in self.param_groups for p in group["params"]]
            for parameter, weights in zip(parameters, state_dict["weights"], strict=True):
                parameter.copy_(weights)


def find_eval_weights_optimizer(optimizer: Optimizer) -> EvalWeightsOptimizer | None:
    """Return the optimizer with evaluation weights among an optimizer and those that it wraps, or ``None``."""
    return next((each for each in chain(optimizer) if isinstance(each, EvalWeightsOptimizer)), None)
