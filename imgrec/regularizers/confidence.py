"""Penalties on the entropy of predictions: confidence penalty and entropy minimization."""

from __future__ import annotations

import math

from torch import Tensor, nn

from imgrec.losses.base import full_precision
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.ranges import NonNegativeFloat, check_ranges


def prediction_entropy(logits: Tensor) -> Tensor:
    """Return the entropy of each prediction in nats, float ``(batch,)``, of logits ``(batch, num_classes)``.

    >>> import torch
    >>> prediction_entropy(torch.zeros(1, 8)).exp()
    tensor([8.0000])
    """
    log_probabilities = full_precision(logits).log_softmax(1)
    return -(log_probabilities.exp() * log_probabilities).sum(1)


def confidence_penalty(logits: Tensor, threshold: float | None = None) -> Tensor:
    """Return the mean of ``max(0, threshold - entropy)`` over the predictions, a scalar.

    Args:
        logits: Float ``(batch, num_classes)``.
        threshold: Entropy in nats from which on the penalty is 0. Defaults to ``log(num_classes)``, the maximum.

    Example:
        >>> import torch
        >>> confidence_penalty(torch.tensor([[0.0, 99.0]])).exp()
        tensor(2.)
    """
    most = math.log(logits.shape[1]) if threshold is None else threshold
    return (most - prediction_entropy(logits)).clamp_min(0).mean()


def entropy_penalty(logits: Tensor) -> Tensor:
    """Return the mean entropy of the predictions in nats, a scalar, of logits ``(batch, num_classes)``.

    Example:
        >>> import torch
        >>> entropy_penalty(torch.zeros(4, 8)).exp()
        tensor(8.0000)
    """
    return prediction_entropy(logits).mean()


@REGULARIZERS.register("confidence")
class ConfidencePenalty(nn.Module):
    """Penalty on predictions whose entropy is below a threshold, which improves calibration.

    The effect is similar to label smoothing, but similar classes may keep a larger probability than others. Weights of
    0.1 to 1 are usual.

    Args:
        threshold: Entropy in nats from which on the penalty is 0, at least 0. Defaults to ``log(num_classes)``, the
            maximum.

    Raises:
        UserError: If ``threshold`` is negative.

    Example::

        regularizers: {name: confidence, weight: 0.1}

    See Also:
        :func:`confidence_penalty`. Use ``label_smoothing`` of :class:`imgrec.losses.CrossEntropy` instead if the
        missing probability is to be the same for all classes.

    Source: Pereyra, Tucker, Chorowski, Kaiser and Hinton, Regularizing Neural Networks by Penalizing Confident Output
    Distributions, 2017, arXiv:1701.06548.
    """

    @check_ranges
    def __init__(self, threshold: NonNegativeFloat | None = None) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        return confidence_penalty(output.logits, self.threshold)


@REGULARIZERS.register("entropy")
class EntropyPenalty(nn.Module):
    """Mean entropy of the predictions: confident predictions, and decision boundaries away from the images.

    The opposite of ``confidence``, for noisy labels or few labels. Small weights are usual.

    Example::

        regularizers: {name: entropy, weight: 0.05, ramp: [0.2, 0.6]}

    See Also:
        :func:`entropy_penalty`. Use :class:`ConfidencePenalty` instead if the predictions are overconfident.

    Source: Grandvalet and Bengio, Semi-supervised Learning by Entropy Minimization, 2004, NeurIPS 17.
    """

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        return entropy_penalty(output.logits)
