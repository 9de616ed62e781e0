"""Penalties on gradients of the inputs: what a network says should not hang on a pixel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.augment import to_float
from imgrec.errors import UserError
from imgrec.losses import cross_entropy
from imgrec.models.utils.passes import another_pass
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.vectors import unit_length


def pixel_gradient(model: nn.Module, images: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """The gradient of ``value(logits)``, a scalar, in the pixels of images in [0, 1]; it can be differentiated.

    It takes a pass of its own, and leaves running statistics and the gradient mode as they are.

    Args:
        model: takes images in [0, 1], and gives logits.
        images: uint8, or float in [0, 1], ``(batch, channels, height, width)``.
        value: of the logits.

    Returns:
        Float, of the images' shape.

    >>> pixel_gradient(nn.Flatten(), torch.zeros(1, 1, 1, 2), lambda logits: (logits * torch.tensor([3.0, 4.0])).sum())
    tensor([[[[3., 4.]]]])
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        pixels = to_float(images).detach().requires_grad_()
        logits = another_pass(model, pixels, twice_differentiable=differentiable)
        (gradient,) = torch.autograd.grad(value(logits), pixels, create_graph=differentiable)
    return gradient if differentiable else gradient.detach()


def jacobian_penalty(model: nn.Module, images: Tensor, projections: Tensor) -> Tensor:
    """Half the mean squared Frobenius norm of the logits' Jacobian in the pixels, estimated in random directions.

    Args:
        model: takes images in [0, 1], and gives logits.
        images: uint8, or float in [0, 1], ``(batch, channels, height, width)``.
        projections: float ``(count, batch, num_classes)``: directions in the space of logits, of any length but 0. With
            the coordinate axes, of as many as there are classes, the estimate is exact.

    Returns:
        A scalar.
    """
    directions = unit_length(projections, dim=2)
    total = torch.zeros((), device=images.device)
    for direction in directions:
        gradient = pixel_gradient(model, images, lambda logits, along=direction: (logits.float() * along).sum())  # type: ignore[misc]
        total = total + gradient.float().square().sum() / len(images)
    return total * projections.shape[2] / len(projections) / 2


def input_gradient_penalty(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Half the mean squared length of the gradient of each image's cross-entropy in its pixels, a scalar.

    Args:
        model: takes images in [0, 1], and gives logits.
        images: uint8, or float in [0, 1], ``(batch, channels, height, width)``.
        targets: int64 ``(batch,)``, or float ``(batch, num_classes)`` probabilities.
    """
    # the sum over images, so that each has the gradient of its own loss
    gradient = pixel_gradient(model, images, lambda logits: cross_entropy(logits, targets) * len(images))
    return gradient.float().square().sum() / len(images) / 2


@REGULARIZERS.register("jacobian")
class Jacobian(nn.Module):
    """How much the logits change with the pixels: wider margins, and less harm from noise.

    Half the squared norm of the Jacobian, a mean over images, with pixels in [0, 1]; estimated in random directions,
    each of which costs a pass and two gradients. Batch normalization ties the images of a batch together; the part of
    others in an image's logits counts, too. A weight of 0.001 to 0.1, by the size of the images.

    Args:
        projections: how many random directions at each step, 1 or more; one is enough over a training.

    Raises:
        UserError: fewer than one projection.

    Example::

        regularizers: {name: jacobian, weight: 0.01}

    Source: Hoffman, Roberts and Yaida, Robust Learning with Jacobian Regularization, 2019, arXiv:1908.02729.
    """

    def __init__(self, projections: int = 1) -> None:
        super().__init__()
        self.check_arguments(projections)
        self.projections = projections

    @staticmethod
    def check_arguments(projections: int = 1, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        if projections < 1:
            raise UserError(f"`projections` must be 1 or more, got {projections}.")

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        shape = (self.projections, *output.logits.shape)
        directions = torch.randn(shape, device=output.logits.device)
        return jacobian_penalty(model, output.images, directions)


@REGULARIZERS.register("input_gradient")
class InputGradient(nn.Module):
    """How much the cross-entropy changes with the pixels (double backpropagation).

    Half the squared length of its gradient in the pixels of each image, a mean, with pixels in [0, 1]. It costs a pass
    and two gradients. A weight of 0.01 to 1, by the size of the images.

    Example::

        regularizers: {name: input_gradient, weight: 0.1}

    Source: Drucker and LeCun, Improving Generalization Performance Using Double Backpropagation, 1992,
    10.1109/72.165600; Ross and Doshi-Velez, 2018, arXiv:1711.09404.
    """

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        return input_gradient_penalty(model, output.images, output.targets)
