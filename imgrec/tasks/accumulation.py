"""The weights of batches whose gradients are accumulated for one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class AccumulatedSamples:
    """Number of samples in the accumulated gradient, and the factors that weight each batch by its samples.

    Lightning divides the loss of each batch by ``accumulate_grad_batches`` and adds the gradients. That is the mean
    over the samples only if as many batches follow and all have the same size. At the end of an epoch fewer batches
    may be left, and the last one may be smaller. The weight of a batch is therefore its size relative to the first
    batch of the step. The sum is divided by the number of samples that contributed. Both factors are 1 for a full
    step.

    All processes have batches of the same size at each step (see :class:`imgrec.data.TrainingSampler`). The mean over
    processes, which the strategy computes, is therefore the mean over their samples.

    Args:
        total: Number of samples of the previous and the current batch of the step.
        first: Number of samples of the first batch.
        weight: Factor of the loss of the current batch.

    Example:
        >>> samples = AccumulatedSamples()
        >>> samples.add(8, is_first=True), samples.add(4, is_first=False)  # 8 and 4 samples, at most 4 batches
        (1.0, 0.5)
        >>> samples.correction(4)  # 12 samples are 1.5 first batches, and the sum was divided by 4
        2.6666666666666665
    """

    total: int = 0
    first: int = 0
    weight: float = 1.0

    def add(self, samples: int, is_first: bool) -> float:
        """Count a batch and return the factor of its loss.

        Args:
            samples: Number of samples of the batch.
            is_first: True if it is the first batch of an optimizer step.
        """
        if is_first:
            self.total = self.first = 0
        self.first = self.first or samples
        self.total += samples
        self.weight = samples / self.first if self.first else 1.0
        return self.weight

    def correction(self, batches: int) -> float:
        """Return the factor of the accumulated gradient, which is already divided by ``batches``."""
        return batches * self.first / self.total if self.total else 1.0


def scale_gradients(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Multiply the gradients of the parameters by a factor, in place."""
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    for gradient in gradients:
        gradient.mul_(factor)
