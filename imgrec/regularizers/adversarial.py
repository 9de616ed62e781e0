"""Adversarial training: the loss on images perturbed to increase it, within a box of a few gray levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor, nn

from imgrec.augment import to_float
from imgrec.losses import LOSSES, cross_entropy
from imgrec.models.utils.forward import extra_forward
from imgrec.models.utils.loss_scale import scaled_loss
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.ranges import PositiveFloat, PositiveInt, check_ranges

GrayLevels = Annotated[float, Gt(0), Le(255)]
"""Distance between two pixels, in gray levels."""

LossFn = Callable[[Tensor, Tensor], Tensor]
"""Function from logits and targets to a scalar."""

Objective = Callable[[Tensor], Tensor]
"""Function from logits to the scalar to maximize."""


def fgsm_loss(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    epsilon: float = 8.0,
    random_start: bool = False,
    step_size: float | None = None,
    loss: LossFn = cross_entropy,
) -> Tensor:
    """Return the loss on images perturbed by the fast gradient sign method, a scalar.

    Args:
        model: Network from images in [0, 1] to logits.
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        targets: Int64 ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        epsilon: Largest change of a pixel, in gray levels. Defaults to 8.
        random_start: Start at a random point of the box. Defaults to ``False``.
        step_size: Step of a pixel, in gray levels. Defaults to ``epsilon``, or 1.25 ``epsilon`` with a random start.
        loss: Loss to maximize and to return. Defaults to cross-entropy.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, targets = torch.rand(8, 1, 2, 2), torch.arange(8) % 2
        >>> bool(fgsm_loss(model, images, targets) > cross_entropy(model(images), targets))
        True
    """
    size = _default_step(epsilon, 1, random_start) if step_size is None else step_size
    return _adversarial_loss(model, images, targets, epsilon, size, 1, random_start, loss)


def pgd_loss(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    epsilon: float = 8.0,
    steps: int = 7,
    step_size: float | None = None,
    random_start: bool = True,
    loss: LossFn = cross_entropy,
) -> Tensor:
    """Return the loss on images perturbed by projected gradient descent, a scalar.

    Args:
        model: Network from images in [0, 1] to logits.
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        targets: Int64 ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        epsilon: Largest change of a pixel, in gray levels. Defaults to 8.
        steps: Number of steps, at least 1. Defaults to 7.
        step_size: Step of a pixel, in gray levels. Defaults to ``2.5 * epsilon / steps``.
        random_start: Start at a random point of the box. Defaults to ``True``.
        loss: Loss to maximize and to return. Defaults to cross-entropy.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> images, targets = torch.rand(8, 1, 2, 2), torch.arange(8) % 2
        >>> bool(pgd_loss(model, images, targets, steps=3) > cross_entropy(model(images), targets))
        True
    """
    size = _default_step(epsilon, steps, random_start) if step_size is None else step_size
    return _adversarial_loss(model, images, targets, epsilon, size, steps, random_start, loss)


def _default_step(epsilon: float, steps: int, random_start: bool) -> float:
    return epsilon * ((1.25 if random_start else 1.0) if steps == 1 else 2.5 / steps)


def _adversarial_loss(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    epsilon: float,
    step_size: float,
    steps: int,
    random_start: bool,
    loss: LossFn,
) -> Tensor:
    perturbed = projected_ascent(
        model,
        images,
        lambda logits: loss(logits, targets) * len(logits),
        epsilon / 255,
        step_size / 255,
        steps,
        random_start,
    )
    return loss(extra_forward(model, perturbed), targets)


def projected_ascent(
    model: nn.Module,
    images: Tensor,
    objective: Objective,
    epsilon: float,
    step_size: float,
    steps: int = 1,
    random_start: bool = False,
) -> Tensor:
    """Return the images after projected gradient ascent with sign steps, each pixel changed by at most ``epsilon``.

    One step without a random start is the fast gradient sign method. Running statistics and the gradients of the
    weights are unchanged. The default generator draws the random start.

    Args:
        model: Network from images in [0, 1] to logits.
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        objective: Function to maximize. If it is a sum over images, the images are independent of one another.
        epsilon: Largest change of a pixel, in units of [0, 1].
        step_size: Change of a pixel per step, in units of [0, 1].
        steps: Number of steps. Defaults to 1.
        random_start: Start at a random point of the box instead of the images. Defaults to ``False``.

    Returns:
        Float in [0, 1], without a gradient.
    """
    clean = to_float(images).detach()
    moved = clean
    if random_start:
        moved = (clean + (2 * torch.rand_like(clean) - 1) * epsilon).clamp_(0, 1)
    low, high = (clean - epsilon).clamp_(0, 1), (clean + epsilon).clamp_(0, 1)
    for _ in range(steps):
        with torch.enable_grad():
            moved = moved.detach().requires_grad_()
            total = objective(extra_forward(model, moved))
            (gradient,) = torch.autograd.grad(scaled_loss(total, len(images)), moved)
        signs = gradient.sign().nan_to_num(0.0)  # a pixel whose gradient overflows in fp16 is unchanged
        moved = torch.clamp(moved.detach() + step_size * signs, low, high)
    return moved


class _Adversarial(nn.Module):
    """Base class of both attacks."""

    def __init__(
        self, epsilon: float, step_size: float | None, steps: int, random_start: bool, loss: Any, facts: dict[str, Any]
    ) -> None:
        super().__init__()
        self.epsilon = float(epsilon)
        self.step_size = float(_default_step(self.epsilon, steps, random_start) if step_size is None else step_size)
        self.steps = steps
        self.random_start = random_start
        facts = {name: value for name, value in facts.items() if value is not None}
        self.loss: nn.Module = LOSSES.build(loss, "loss", **facts) if isinstance(loss, str | dict) else loss

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the loss on the perturbed images, a scalar."""
        return _adversarial_loss(
            model,
            output.images,
            output.targets,
            self.epsilon,
            self.step_size,
            self.steps,
            self.random_start,
            self.loss,
        )

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"epsilon={self.epsilon:g}, step_size={self.step_size:g}, steps={self.steps}"


@REGULARIZERS.register("fgsm")
class FGSM(_Adversarial):
    """Loss on images perturbed by one step along the sign of its gradient (fast gradient sign method).

    It takes two additional forward passes per step. All values are in gray levels: ``epsilon: 8`` is 8 of 255. Batch
    normalization normalizes perturbed images by their own batch, and updates its running statistics from the clean
    images only. A weight of 1 gives clean and perturbed images the same weight.

    Args:
        epsilon: Largest change of a pixel, in gray levels, in (0, 255]. Defaults to 8.
        random_start: Start at a random point of the box, which prevents overfitting to the attack. Defaults to
            ``False``.
        step_size: Step of a pixel, in gray levels, above 0. Defaults to ``epsilon``, or 1.25 ``epsilon`` with a random
            start.
        loss: Spec of :data:`imgrec.losses.LOSSES`, the loss to maximize and to minimize. Defaults to cross-entropy.
        num_classes: Number of classes, a fact of the data.
        class_names: Names of the classes, a fact of the data.
        class_counts: Number of training images per class, a fact of the data.

    Raises:
        UserError: If ``epsilon`` or ``step_size`` is out of range.

    Example::

        regularizers: {name: fgsm, weight: 1.0, epsilon: 4}

    See Also:
        :func:`fgsm_loss`. Use :class:`PGD` instead for robustness to stronger attacks, at several times the cost.

    Source: Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, 2015, arXiv:1412.6572;
    random start: Wong, Rice and Kolter, Fast is Better than Free, 2020, arXiv:2001.03994.
    """

    @check_ranges
    def __init__(
        self,
        epsilon: GrayLevels = 8.0,
        random_start: bool = False,
        step_size: PositiveFloat | None = None,
        loss: Annotated[Any, LOSSES] = "cross_entropy",
        num_classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
        class_counts: tuple[int, ...] | None = None,
    ) -> None:
        facts = {"num_classes": num_classes, "class_names": class_names, "class_counts": class_counts}
        super().__init__(epsilon, step_size, 1, random_start, loss, facts)


@REGULARIZERS.register("pgd")
class PGD(_Adversarial):
    """Loss on images perturbed by projected gradient descent within a box around them (adversarial training).

    It takes ``steps + 1`` additional forward passes per step. All values are in gray levels: ``epsilon: 8`` is 8 of
    255. Batch normalization normalizes perturbed images by their own batch, and updates its running statistics from the
    clean images only. The random starts depend on the seed, the epoch and the step. A weight of 1 gives clean and
    perturbed images the same weight.

    Args:
        epsilon: Largest change of a pixel, in gray levels, in (0, 255]. Defaults to 8.
        steps: Number of steps, at least 1. Defaults to 7.
        step_size: Step of a pixel, in gray levels, above 0. Defaults to ``2.5 * epsilon / steps``.
        random_start: Start at a random point of the box instead of the images. Defaults to ``True``.
        loss: Spec of :data:`imgrec.losses.LOSSES`, the loss to maximize and to minimize. Defaults to cross-entropy.
        num_classes: Number of classes, a fact of the data.
        class_names: Names of the classes, a fact of the data.
        class_counts: Number of training images per class, a fact of the data.

    Raises:
        UserError: If ``epsilon``, ``steps`` or ``step_size`` is out of range.

    Example::

        regularizers: {name: pgd, weight: 1.0, epsilon: 8, steps: 7}

    See Also:
        :func:`pgd_loss`. Use :class:`FGSM` instead if two additional passes per step are the limit.

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018, arXiv:1706.06083.
    """

    @check_ranges
    def __init__(
        self,
        epsilon: GrayLevels = 8.0,
        steps: PositiveInt = 7,
        step_size: PositiveFloat | None = None,
        random_start: bool = True,
        loss: Annotated[Any, LOSSES] = "cross_entropy",
        num_classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
        class_counts: tuple[int, ...] | None = None,
    ) -> None:
        facts = {"num_classes": num_classes, "class_names": class_names, "class_counts": class_counts}
        super().__init__(epsilon, step_size, steps, random_start, loss, facts)
