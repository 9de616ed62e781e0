"""Penalties on the gradient of the inputs: Jacobian regularization and double backpropagation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from imgrec.augment import to_float
from imgrec.losses.cross_entropy import cross_entropy
from imgrec.models.utils.forward import extra_forward
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.ranges import PositiveInt, check_ranges
from imgrec.utils.vectors import unit_length


def pixel_gradient(model: nn.Module, images: Tensor, value: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the differentiable gradient of the scalar ``value(logits)`` in the pixels of images in [0, 1].

    It runs one forward pass. Running statistics and the gradient mode are unchanged.

    Args:
        model: Network from images in [0, 1] to logits.
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        value: Function from logits to a scalar.

    Returns:
        Float, in the shape of the images.

    >>> pixel_gradient(nn.Flatten(), torch.zeros(1, 1, 1, 2), lambda logits: (logits * torch.tensor([3.0, 4.0])).sum())
    tensor([[[[3., 4.]]]])
    """
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        pixels = to_float(images).detach().requires_grad_()
        logits = extra_forward(model, pixels, twice_differentiable=differentiable)
        (gradient,) = torch.autograd.grad(value(logits), pixels, create_graph=differentiable)
    return gradient if differentiable else gradient.detach()


def jacobian_penalty(model: nn.Module, images: Tensor, projections: Tensor) -> Tensor:
    """Return half the mean squared Frobenius norm of the Jacobian of the logits, estimated in random directions.

    Args:
        model: Network from images in [0, 1] to logits.
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        projections: Float ``(count, batch, num_classes)``, nonzero directions in the space of logits. The estimate is
            exact for the coordinate axes, one per class.

    Returns:
        Scalar.

    Example:
        >>> axes = torch.eye(2)[:, None]
        >>> jacobian_penalty(nn.Flatten(), torch.zeros(1, 1, 1, 2), axes)  # the Jacobian is the identity
        tensor(1.)
    """
    directions = unit_length(projections, dim=2)
    total = torch.zeros((), device=images.device)
    for direction in directions:
        gradient = pixel_gradient(model, images, lambda logits, along=direction: (logits.float() * along).sum())  # type: ignore[misc]
        total = total + gradient.float().square().sum() / len(images)
    return total * projections.shape[2] / len(projections) / 2


def input_gradient_penalty(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Return half the mean squared length of the gradient of the cross-entropy of each image in its pixels, a scalar.

    Args:
        model: Network from images in [0, 1] to logits.
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        targets: Int64 ``(batch,)`` or float probabilities ``(batch, num_classes)``.

    Example:
        >>> penalty = input_gradient_penalty(nn.Flatten(), torch.zeros(1, 1, 1, 2), torch.tensor([0]))
        >>> penalty.item()  # the gradient is (-0.5, 0.5)
        0.25
    """
    # the sum over images, so that no image receives the gradient of another loss
    gradient = pixel_gradient(model, images, lambda logits: cross_entropy(logits, targets) * len(images))
    return gradient.float().square().sum() / len(images) / 2


@REGULARIZERS.register("jacobian")
class Jacobian(nn.Module):
    """Squared norm of the Jacobian of the logits in the pixels: wider margins and robustness to noise.

    The value is half the squared norm, a mean over images, with pixels in [0, 1]. It is estimated in random directions,
    each of which takes one forward pass and two gradients. With batch normalization the logits of an image depend on
    the other images of the batch, and this part is included. Weights of 0.001 to 0.1 are usual, depending on the image
    size.

    Args:
        projections: Number of random directions per step, at least 1. Defaults to 1, which is sufficient.

    Raises:
        UserError: If ``projections`` is less than 1.

    Example::

        regularizers: {name: jacobian, weight: 0.01}

    See Also:
        :func:`jacobian_penalty`. Use :class:`InputGradient` instead to penalize only the direction of the loss.

    Source: Hoffman, Roberts and Yaida, Robust Learning with Jacobian Regularization, 2019, arXiv:1908.02729.
    """

    @check_ranges
    def __init__(self, projections: PositiveInt = 1) -> None:
        super().__init__()
        self.projections = projections

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        shape = (self.projections, *output.logits.shape)
        directions = torch.randn(shape, device=output.logits.device)
        return jacobian_penalty(model, output.images, directions)


@REGULARIZERS.register("input_gradient")
class InputGradient(nn.Module):
    """Squared gradient of the cross-entropy in the pixels (double backpropagation).

    The value is half the squared length of the gradient per image, a mean, with pixels in [0, 1]. It takes one forward
    pass and two gradients. Weights of 0.01 to 1 are usual, depending on the image size.

    Example::

        regularizers: {name: input_gradient, weight: 0.1}

    See Also:
        :func:`input_gradient_penalty`. Use :class:`FGSM` instead for robustness to changes of several gray levels.

    Source: Drucker and LeCun, Improving Generalization Performance Using Double Backpropagation, 1992,
    10.1109/72.165600; Ross and Doshi-Velez, 2018, arXiv:1711.09404.
    """

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        return input_gradient_penalty(model, output.images, output.targets)
