"""Virtual adversarial training: predictions stay where they are in the direction that changes them most."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imgrec.augment import to_float
from imgrec.errors import UserError
from imgrec.losses.base import full_precision, in_range
from imgrec.models.utils.loss_scale import scaled_loss
from imgrec.models.utils.passes import another_pass, drops, same_draws
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.vectors import of_size_one


def divergence(logits: Tensor, others: Tensor) -> Tensor:
    """``KL(p, q)`` of the softmaxes of two sets of logits, a mean over the batch: a scalar.

    >>> divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.)
    """
    log_p, log_q = full_precision(logits).log_softmax(1), full_precision(others).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def of_length(directions: Tensor, length: float) -> Tensor:
    """Return directions with a root mean square over the pixels of each image of ``length``; zeros stay.

    Each image is divided by its largest absolute value first, as in the authors' code: squares of smaller gradients
    than 1e-23 are 0 in float32.

    >>> of_length(torch.full((1, 1, 2, 2), -3.0), 0.5).flatten()
    tensor([-0.5000, -0.5000, -0.5000, -0.5000])
    """
    scaled, _ = of_size_one(directions.float(), (1, 2, 3))
    mean = scaled.square().mean((1, 2, 3), keepdim=True).sqrt()
    return length * scaled / torch.where(mean > 0, mean, torch.ones_like(mean))


@REGULARIZERS.register("virtual_adversarial")
class VirtualAdversarial(nn.Module):
    """How far predictions move when images go a little way in the direction that moves them most; without labels.

    The direction is found by power iteration from a random one, which depends on the seed, the epoch and the step; the
    passes that are compared have the same dropout. Each iteration costs a pass, the penalty another one, and dropout in
    the network one more. Batch normalization takes its running statistics from the images as they are. A weight of 1
    is the paper's.

    Args:
        epsilon: how far the images go: the root mean square over their pixels, in grey levels, above 0.
        trial: how far they go while the direction is looked for, likewise: small, and large enough for bfloat16.
        iterations: of power iteration, 1 or more; one is enough over a training.

    Raises:
        UserError: a number that cannot be.

    Example::

        regularizers: {name: virtual_adversarial, weight: 1.0, epsilon: 8}

    Source: Miyato, Maeda, Koyama and Ishii, Virtual Adversarial Training, 2018, arXiv:1704.03976.
    """

    def __init__(self, epsilon: float = 8.0, trial: float = 2.0, iterations: int = 1) -> None:
        super().__init__()
        self.check_arguments(epsilon, trial, iterations)
        self.epsilon = float(epsilon)
        self.trial = float(trial)
        self.iterations = iterations

    @staticmethod
    def check_arguments(epsilon: float = 8.0, trial: float = 2.0, iterations: int = 1, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        in_range("epsilon", epsilon, high=255.0, open_low=True)
        in_range("trial", trial, high=255.0, open_low=True)
        if iterations < 1:
            raise UserError(f"`iterations` must be 1 or more, got {iterations}.")

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        images = to_float(output.images).detach()
        direction = torch.randn_like(images)
        known = output.logits.detach()
        if drops(model):
            with same_draws(images.device):
                known = another_pass(model, images).detach()
        for _ in range(self.iterations):
            direction = self._turned(model, images, direction, known)
        return divergence(known, another_pass(model, images + of_length(direction, self.epsilon / 255)))

    def _turned(self, model: nn.Module, images: Tensor, direction: Tensor, known: Tensor) -> Tensor:
        """A direction that is nearer to the one that changes predictions most."""
        with torch.enable_grad(), same_draws(images.device):
            trial = of_length(direction, self.trial / 255).requires_grad_()
            apart = divergence(known, another_pass(model, images + trial)) * len(images)
            (gradient,) = torch.autograd.grad(scaled_loss(apart, len(images)), trial)
        # an image keeps its direction if no direction changes it, or if its gradient overflows in fp16
        changes, finite = gradient != 0, gradient.isfinite()
        usable = changes.any(dim=(1, 2, 3), keepdim=True) & finite.all(dim=(1, 2, 3), keepdim=True)
        return torch.where(usable, gradient, direction)
