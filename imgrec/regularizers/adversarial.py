"""Adversarial training: the loss on images changed so that it is large, in a box of a few grey levels around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from imgrec.augment import to_float
from imgrec.errors import UserError
from imgrec.losses import LOSSES
from imgrec.losses.base import in_range
from imgrec.models.utils.loss_scale import scaled_loss
from imgrec.models.utils.passes import another_pass
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput

Objective = Callable[[Tensor], Tensor]
"""From logits to what is to become large, a scalar."""


def climb(
    model: nn.Module,
    images: Tensor,
    objective: Objective,
    epsilon: float,
    step_size: float,
    steps: int = 1,
    random_start: bool = False,
) -> Tensor:
    """The images after steps along the sign of the gradient, each pixel at most ``epsilon`` away: projected descent.

    One step without a random start is the fast gradient sign method. Running statistics and the gradients of the
    weights stay as they are; the start is drawn from the default generator.

    Args:
        model: takes images in [0, 1], and gives logits.
        images: uint8, or float in [0, 1], ``(batch, channels, height, width)``.
        objective: what is to become large; of a sum over images, each climbs on its own.
        epsilon: how far a pixel may move, in units of [0, 1].
        step_size: how far it moves in a step.
        steps: how many.
        random_start: begin anywhere in the box, and not at the images.

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
            total = objective(another_pass(model, moved))
            (gradient,) = torch.autograd.grad(scaled_loss(total, len(images)), moved)
        signs = gradient.sign().nan_to_num(0.0)  # a pixel whose gradient overflowed in fp16 stays
        moved = torch.clamp(moved.detach() + step_size * signs, low, high)
    return moved


class _Adversarial(nn.Module):
    """What both attacks have in common: a loss, and how far a pixel may move."""

    def __init__(
        self, epsilon: float, step_size: float | None, steps: int, random_start: bool, loss: Any, facts: dict[str, Any]
    ) -> None:
        super().__init__()
        self.epsilon = float(epsilon)
        self.step_size = self._step(step_size, steps, random_start)
        self.steps = steps
        self.random_start = random_start
        known = {name: value for name, value in facts.items() if value is not None}
        self.loss: nn.Module = LOSSES.build(loss, "loss", **known) if isinstance(loss, str | dict) else loss

    def _step(self, step_size: float | None, steps: int, random_start: bool) -> float:
        if step_size is not None:
            return float(step_size)
        return self.epsilon * ((1.25 if random_start else 1.0) if steps == 1 else 2.5 / steps)

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The loss on the changed images, a scalar."""
        targets = output.targets
        changed = climb(
            model,
            output.images,
            lambda logits: self.loss(logits, targets) * len(logits),
            self.epsilon / 255,
            self.step_size / 255,
            self.steps,
            self.random_start,
        )
        loss: Tensor = self.loss(another_pass(model, changed), targets)
        return loss

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"epsilon={self.epsilon:g}, step_size={self.step_size:g}, steps={self.steps}"


@REGULARIZERS.register("fgsm")
class FGSM(_Adversarial):
    """The loss on images moved by one step along the sign of its gradient.

    Two further passes a step. All numbers are in grey levels: ``epsilon: 8`` is 8 of 255. Batch normalization
    normalizes changed images by their own batch, and takes its running statistics from the images as they are. A
    weight of 1 lets both kinds of images count alike.

    Args:
        epsilon: how far a pixel moves, in grey levels, above 0.
        random_start: begin anywhere in the box, with a step of 1.25 ``epsilon``: harder to adapt to.
        step_size: how far a step goes, in grey levels; by default as said.
        loss: a spec of :data:`imgrec.losses.LOSSES`: what is to become large, and is then learnt from.
        num_classes: a fact of the data.
        class_names: a fact of the data.
        class_counts: a fact of the data.

    Raises:
        UserError: a number that cannot be.

    Example::

        regularizers: {name: fgsm, weight: 1.0, epsilon: 4}

    Source: Goodfellow, Shlens and Szegedy, Explaining and Harnessing Adversarial Examples, 2015, arXiv:1412.6572;
    random start: Wong, Rice and Kolter, Fast is Better than Free, 2020, arXiv:2001.03994.
    """

    def __init__(
        self,
        epsilon: float = 8.0,
        random_start: bool = False,
        step_size: float | None = None,
        loss: Annotated[Any, LOSSES] = "cross_entropy",
        num_classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
        class_counts: tuple[int, ...] | None = None,
    ) -> None:
        self.check_arguments(epsilon, step_size)
        facts = {"num_classes": num_classes, "class_names": class_names, "class_counts": class_counts}
        super().__init__(epsilon, step_size, 1, random_start, loss, facts)

    @staticmethod
    def check_arguments(epsilon: float = 8.0, step_size: float | None = None, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        in_range("epsilon", epsilon, high=255.0, open_low=True)
        if step_size is not None:
            in_range("step_size", step_size, open_low=True)


@REGULARIZERS.register("pgd")
class PGD(_Adversarial):
    """The loss on images moved by several steps along its gradient, in a box around them (Madry's training).

    ``steps + 1`` further passes a step. All numbers are in grey levels: ``epsilon: 8`` is 8 of 255. Batch normalization
    normalizes changed images by their own batch, and takes its running statistics from the images as they are. The
    starts depend on the seed, the epoch and the step. A weight of 1 lets both kinds of images count alike.

    Args:
        epsilon: how far a pixel may move, in grey levels, above 0.
        steps: how many, 1 or more.
        step_size: how far a pixel moves in a step, in grey levels; by default ``2.5 * epsilon / steps``.
        random_start: begin anywhere in the box, and not at the images.
        loss: a spec of :data:`imgrec.losses.LOSSES`: what is to become large, and is then learnt from.
        num_classes: a fact of the data.
        class_names: a fact of the data.
        class_counts: a fact of the data.

    Raises:
        UserError: a number that cannot be.

    Example::

        regularizers: {name: pgd, weight: 1.0, epsilon: 8, steps: 7}

    Source: Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, 2018, arXiv:1706.06083.
    """

    def __init__(
        self,
        epsilon: float = 8.0,
        steps: int = 7,
        step_size: float | None = None,
        random_start: bool = True,
        loss: Annotated[Any, LOSSES] = "cross_entropy",
        num_classes: int | None = None,
        class_names: tuple[str, ...] | None = None,
        class_counts: tuple[int, ...] | None = None,
    ) -> None:
        self.check_arguments(epsilon, steps, step_size)
        facts = {"num_classes": num_classes, "class_names": class_names, "class_counts": class_counts}
        super().__init__(epsilon, step_size, steps, random_start, loss, facts)

    @staticmethod
    def check_arguments(epsilon: float = 8.0, steps: int = 7, step_size: float | None = None, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        FGSM.check_arguments(epsilon, step_size)
        if steps < 1:
            raise UserError(f"`steps` must be 1 or more, got {steps}.")
