"""Schedule-free optimizers: gradients at an interpolation of the iterates and their average."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from imgrec.optim.optimizers.averaged import EvalWeightsOptimizer
from imgrec.optim.optimizers.factory import OptimizerFactory
from imgrec.optim.optimizers.registry import OPTIMIZERS
from imgrec.utils.ranges import NonNegativeFloat, OpenUnitInterval, RightOpenUnitInterval, check_ranges


@torch.no_grad()
def schedule_free_(
    y: Sequence[Tensor], z: Sequence[Tensor], direction: Sequence[Tensor], lr: float, beta: float, weight: float
) -> None:
    """Update the training weights ``y`` and the iterates ``z`` by one step, in place.

    The step is ``z -= lr * direction``. The average ``x`` includes the new ``z`` with ``weight``. It is not stored, but
    follows from ``y = (1 - beta) z + beta x``.

    Args:
        y: Weights at which the direction was computed.
        z: Points of the iteration.
        direction: Descent direction.
        lr: Learning rate.
        beta: Interpolation between iterate (0) and average (1), in (0, 1).
        weight: Weight of the new iterate in the average, in [0, 1].
    """
    torch._foreach_lerp_(list(y), list(z), weight)
    torch._foreach_add_(list(y), list(direction), alpha=lr * (beta * (1 - weight) - 1))
    torch._foreach_sub_(list(z), list(direction), alpha=lr)


@torch.no_grad()
def schedule_free_average(y: Tensor, z: Tensor, beta: float) -> Tensor:
    """Return the average ``x`` from ``y = (1 - beta) z + beta x``.

    >>> schedule_free_average(torch.tensor(0.95), torch.tensor(0.5), beta=0.9)
    tensor(1.)
    """
    return torch.lerp(y, z, 1 - 1 / beta)


class ScheduleFree(EvalWeightsOptimizer):
    """Base class of schedule-free optimizers: iterates, their running average, and training weights between the two.

    The average, weighted by the squares of the learning rates, provides the evaluation weights.
    """

    averages_alone = True

    @check_ranges
    def __init__(self, params: Any, lr: float, beta: OpenUnitInterval, weight_decay: float, **defaults: Any) -> None:
        progress = {"steps": 0, "weight_sum": 0.0, "highest_lr": 0.0}
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay, **defaults, **progress})

    @abstractmethod
    def direction(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the descent direction of each parameter, without weight decay."""

    def evaluated(self) -> list[tuple[Tensor, Tensor]]:
        """Return the averages."""
        return [
            (p, schedule_free_average(p, self.state[p]["z"], group["beta"]))
            for group in self.param_groups
            for p in group["params"]
            if "z" in self.state.get(p, {})
        ]

    def point(self, parameter: Tensor) -> Tensor | None:
        """Return the iterate."""
        found: Tensor | None = self.state.get(parameter, {}).get("z")
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Args:
            closure: Function that computes the loss and its gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr = float(group["lr"])
            group["steps"] += 1
            group["highest_lr"] = max(group["highest_lr"], lr)
            share = group["highest_lr"] ** 2
            group["weight_sum"] += share
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if "z" not in self.state[parameter]:
                    self.state[parameter]["z"] = parameter.detach().clone()
            direction = self.direction(group, parameters, [p.grad for p in parameters])
            if group["weight_decay"]:
                direction = list(torch._foreach_add(direction, parameters, alpha=group["weight_decay"]))
            weight = share / group["weight_sum"] if group["weight_sum"] else 0.0
            z = [self.state[parameter]["z"] for parameter in parameters]
            schedule_free_(parameters, z, direction, lr, group["beta"], weight)
        return loss


class ScheduleFreeSGD(ScheduleFree):
    """Schedule-free SGD: a constant learning rate after a warm-up, and the average of all steps as the result.

    The learning rate is 10 to 50 times that of ``sgd``, and ``model.schedule`` is ``{name: constant, warmup: 0.05}``.
    Weight decay is part of the gradient. Validation, testing and the saved model use the average. Running statistics of
    batch normalization are those of the training weights, which are close to it.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate. Defaults to 1.
        beta: Interpolation of the training weights between iterate and average, in (0, 1), instead of a momentum.
            Defaults to 0.9.
        weight_decay: Weight decay as in ``sgd``. Defaults to 0.

    Source: Defazio et al., The Road Less Scheduled, 2024, arXiv:2405.15682.

    Example::

        optimizer: {name: schedule_free_sgd, lr: 1.0, weight_decay: 5e-4}
        schedule: {name: constant, warmup: 0.05}
    """

    def __init__(self, params: Any, lr: float = 1.0, beta: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, beta, weight_decay)

    def direction(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the gradients."""
        return gradients


class ScheduleFreeAdamW(ScheduleFree):
    """Schedule-free AdamW: a constant learning rate after a warm-up, and the average of all steps as the result.

    The learning rate is 1 to 10 times that of ``adamw``, and ``model.schedule`` is ``{name: constant, warmup: 0.05}``.
    Validation, testing and the saved model use the average. Running statistics of batch normalization are those of the
    training weights, which are close to it.

    Args:
        params: Parameters or parameter groups.
        lr: Learning rate. Defaults to 0.0025.
        beta: Interpolation of the training weights between iterate and average, in (0, 1), instead of a momentum.
            Defaults to 0.9.
        beta2: Decay of the mean square of the gradient, in [0, 1). Defaults to 0.999.
        eps: Constant added to the denominator, at least 0. Defaults to 1e-8.
        weight_decay: Weight decay as in ``adamw``. Defaults to 0.

    Source: Defazio et al., The Road Less Scheduled, 2024, arXiv:2405.15682.

    Example::

        optimizer: {name: schedule_free_adamw, lr: 0.0025, weight_decay: 0.05}
        schedule: {name: constant, warmup: 0.05}
    """

    @check_ranges
    def __init__(
        self,
        params: Any,
        lr: float = 0.0025,
        beta: float = 0.9,
        beta2: RightOpenUnitInterval = 0.999,
        eps: NonNegativeFloat = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, lr, beta, weight_decay, beta2=beta2, eps=eps)

    def direction(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """Return the gradients divided by the roots of their running mean squares."""
        for parameter in parameters:
            state = self.state[parameter]
            if "mean_square" not in state:
                state["mean_square"] = torch.zeros_like(parameter)
                state["squares"] = 0  # lower than the steps of the group for a parameter that is unfrozen later
            state["squares"] = state.get("squares", group["steps"] - 1) + 1
        squares = [self.state[parameter]["mean_square"] for parameter in parameters]
        torch._foreach_mul_(squares, group["beta2"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["beta2"])
        roots = torch._foreach_div(squares, [1 - group["beta2"] ** self.state[p]["squares"] for p in parameters])
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, group["eps"])
        return list(torch._foreach_div(gradients, list(roots)))


OPTIMIZERS.register("schedule_free_sgd")(OptimizerFactory(ScheduleFreeSGD))
OPTIMIZERS.register("schedule_free_adamw")(OptimizerFactory(ScheduleFreeAdamW))
