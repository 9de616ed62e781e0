"""Penalties on the entropy of predictions: too little of it, or too much."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from imgrec.losses.base import full_precision, in_range
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput


def prediction_entropy(logits: Tensor) -> Tensor:
    """The entropy of each prediction in nats, float ``(batch,)``, of logits ``(batch, num_classes)``.

    >>> import torch
    >>> prediction_entropy(torch.zeros(1, 8)).exp()
    tensor([8.0000])
    """
    log_probabilities = full_precision(logits).log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


@REGULARIZERS.register("confidence")
class ConfidencePenalty(nn.Module):
    """How far the entropy of predictions is below a threshold: predictions stay unsure, and better calibrated.

    Like label smoothing, but classes that look alike may keep more than others. Weights of 0.1 to 1 are usual.

    Args:
        threshold: the entropy, in nats, from which on nothing is penalized; by default that of a prediction that says
            nothing, ``log(num_classes)``, which no prediction exceeds.

    Raises:
        UserError: a negative threshold.

    Example::

        regularizers: {name: confidence, weight: 0.1}

    Source: Pereyra, Tucker, Chorowski, Kaiser and Hinton, Regularizing Neural Networks by Penalizing Confident Output
    Distributions, 2017, arXiv:1701.06548.
    """

    def __init__(self, threshold: float | None = None) -> None:
        super().__init__()
        self.check_arguments(threshold)
        self.threshold = threshold

    @staticmethod
    def check_arguments(threshold: float | None = None, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        if threshold is not None:
            in_range("threshold", threshold)

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        threshold = math.log(output.logits.shape[1]) if self.threshold is None else self.threshold
        return (threshold - prediction_entropy(output.logits)).clamp_min(0).mean()


@REGULARIZERS.register("entropy")
class EntropyPenalty(nn.Module):
    """The mean entropy of the predictions: they become decided, and the boundaries leave where the images are.

    The opposite of ``confidence``: for noisy labels or few of them, in small weights.

    Example::

        regularizers: {name: entropy, weight: 0.05, ramp: [0.2, 0.6]}

    Source: Grandvalet and Bengio, Semi-supervised Learning by Entropy Minimization, 2004, NeurIPS 17.
    """

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        return prediction_entropy(output.logits).mean()
