"""Virtual adversarial training: stable predictions in the direction of largest change, without labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgrec.augment import to_float
from imgrec.losses.base import full_precision
from imgrec.models.utils.forward import extra_forward, has_dropout, same_rng
from imgrec.models.utils.loss_scale import scaled_loss
from imgrec.regularizers.adversarial import GrayLevels
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.ranges import PositiveInt, check_ranges
from imgrec.utils.vectors import of_size_one


def kl_divergence(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Return ``KL(p, q)`` of the softmaxes of two sets of logits, a mean over the batch.

    >>> kl_divergence(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.)
    """
    log_p, log_q = full_precision(logits).log_softmax(1), full_precision(other_logits).log_softmax(1)
    return (log_p.exp() * (log_p - log_q)).sum(1).mean()


def virtual_adversarial_penalty(
    model: nn.Module,
    images: Tensor,
    logits: Tensor | None = None,
    epsilon: float = 8.0,
    trial: float = 2.0,
    iterations: int = 1,
) -> Tensor:
    """Return the local distributional smoothness of virtual adversarial training, a scalar.

    Args:
        model: Network from images in [0, 1] to logits.
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        logits: Logits of the images. Defaults to a forward pass.
        epsilon: Root mean square of the perturbation over the pixels of an image, in gray levels. Defaults to 8.
        trial: Root mean square of the perturbation during power iteration, in gray levels. Defaults to 2.
        iterations: Number of power iterations, at least 1. Defaults to 1.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> bool(virtual_adversarial_penalty(model, torch.rand(8, 1, 2, 2)) > 0)
        True
    """
    images = to_float(images).detach()
    direction = torch.randn_like(images)
    if has_dropout(model):
        with same_rng(images.device):
            reference = extra_forward(model, images).detach()
    else:
        reference = (extra_forward(model, images) if logits is None else logits).detach()
    for _ in range(iterations):
        direction = _power_iteration(model, images, direction, reference, trial)
    return kl_divergence(reference, extra_forward(model, images + scale_to_length(direction, epsilon / 255)))


def _power_iteration(model: nn.Module, images: Tensor, direction: Tensor, reference: Tensor, trial: float) -> Tensor:
    """Return a direction closer to the one that changes predictions most."""
    with torch.enable_grad(), same_rng(images.device):
        shift = scale_to_length(direction, trial / 255).requires_grad_()
        change = kl_divergence(reference, extra_forward(model, images + shift)) * len(images)
        (gradient,) = torch.autograd.grad(scaled_loss(change, len(images)), shift)
    # keep the direction of an image if no direction changes its prediction, or if its gradient overflows in fp16
    changes, finite = gradient != 0, gradient.isfinite()
    usable = changes.any(dim=(1, 2, 3), keepdim=True) & finite.all(dim=(1, 2, 3), keepdim=True)
    return torch.where(usable, gradient, direction)


def scale_to_length(directions: Tensor, length: float) -> Tensor:
    """Return directions scaled to a root mean square of ``length`` over the pixels of each image. Zeros remain zero.

    Each image is divided by its largest absolute value first, as in the authors' code, because squares of gradients
    below 1e-23 are 0 in float32.

    >>> scale_to_length(torch.full((1, 1, 2, 2), -3.0), 0.5).flatten()
    tensor([-0.5000, -0.5000, -0.5000, -0.5000])
    """
    scaled, _ = of_size_one(directions.float(), (1, 2, 3))
    mean = scaled.square().mean((1, 2, 3), keepdim=True).sqrt()
    return length * scaled / torch.where(mean > 0, mean, torch.ones_like(mean))


@REGULARIZERS.register("virtual_adversarial")
class VirtualAdversarial(nn.Module):
    """Change of the predictions for a small step in the direction of largest change (virtual adversarial training).

    Power iteration finds the direction, from a random start that depends on the seed, the epoch and the step. The
    compared passes have the same dropout mask. Each iteration takes one pass, the penalty another one, and dropout in
    the network one more. Batch normalization updates its running statistics from the clean images only. The weight of
    the paper is 1.

    Args:
        epsilon: Root mean square of the perturbation over the pixels of an image, in gray levels, in (0, 255]. Defaults
            to 8.
        trial: Root mean square of the perturbation during power iteration, in gray levels, in (0, 255]. It should be
            small, but large enough for bfloat16. Defaults to 2.
        iterations: Number of power iterations, at least 1. Defaults to 1, which is sufficient.

    Raises:
        UserError: If a number is out of range.

    Example::

        regularizers: {name: virtual_adversarial, weight: 1.0, epsilon: 8}

    See Also:
        :func:`virtual_adversarial_penalty`. Use :class:`FGSM` instead if all images have labels.

    Source: Miyato, Maeda, Koyama and Ishii, Virtual Adversarial Training, 2018, arXiv:1704.03976.
    """

    @check_ranges
    def __init__(self, epsilon: GrayLevels = 8.0, trial: GrayLevels = 2.0, iterations: PositiveInt = 1) -> None:
        super().__init__()
        self.epsilon = float(epsilon)
        self.trial = float(trial)
        self.iterations = iterations

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        return virtual_adversarial_penalty(
            model, output.images, output.logits, self.epsilon, self.trial, self.iterations
        )
