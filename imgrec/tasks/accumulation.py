"""The weights of batches whose gradients are accumulated for one optimizer step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class AccumulatedSamples:
    """The samples behind the gradient that is being accumulated, and the factors that weight each batch by them.

    Lightning divides the loss of each batch by ``accumulate_grad_batches`` and adds the gradients. That is the mean
    over the samples only if as many batches follow and all have the same size. At the end of an epoch fewer batches
    may be left, and the last one may be smaller. A batch is therefore weighted by its size relative to the first
    batch of the step, and the sum is divided by the samples that contributed. Both factors are exactly 1 for a full
    step.

    All processes have batches of the same size at each step, see :class:`imgrec.data.TrainingSampler`, so that the mean
    over processes, which the strategy computes, is the mean over their samples.

    >>> samples = AccumulatedSamples()
    >>> samples.add(8, begins=True), samples.add(4, begins=False)  # 8 and 4 samples of a step of up to 4 batches
    (1.0, 0.5)
    >>> samples.correction(4)  # the sum is divided by 4 already; 12 samples are 1.5 first batches
    2.6666666666666665
    """

    total: int = 0
    """Samples of the batches so far."""

    first: int = 0
    """Samples of the first batch."""

    weight: float = 1.0
    """Factor of the loss of the current batch."""

    def add(self, samples: int, begins: bool) -> float:
        """Count a batch, the first of its optimizer step if ``begins``, and return the factor of its loss."""
        if begins:
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
