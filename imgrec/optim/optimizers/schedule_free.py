"""Optimizers that need no decay of the learning rate: gradients between the steps and their average."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from imgrec.losses.base import in_range
from imgrec.optim.optimizers.averaged import EvaluatedElsewhere
from imgrec.optim.optimizers.factory import OptimizerFactory
from imgrec.optim.optimizers.registry import OPTIMIZERS


@torch.no_grad()
def schedule_free_(
    y: Sequence[Tensor], z: Sequence[Tensor], direction: Sequence[Tensor], lr: float, beta: float, weight: float
) -> None:
    """One step, in place, on what is trained, ``y``, and on what makes the steps, ``z``.

    ``z -= lr * direction``; the average ``x``, of which nothing is kept but that ``y = (1 - beta) z + beta x``, takes
    in the new ``z`` with ``weight``.

    Args:
        y: the weights at which the direction was computed.
        z: the point that takes the steps.
        direction: what is gone along, downwards.
        lr: the learning rate.
        beta: how near ``y`` is to the average, above 0 and below 1.
        weight: of the new point in the average, in [0, 1].
    """
    torch._foreach_lerp_(list(y), list(z), weight)
    torch._foreach_add_(list(y), list(direction), alpha=lr * (beta * (1 - weight) - 1))
    torch._foreach_sub_(list(z), list(direction), alpha=lr)


@torch.no_grad()
def schedule_free_average(y: Tensor, z: Tensor, beta: float) -> Tensor:
    """The average ``x`` of which ``y = (1 - beta) z + beta x``.

    >>> schedule_free_average(torch.tensor(0.95), torch.tensor(0.5), beta=0.9)
    tensor(1.)
    """
    return torch.lerp(y, z, 1 - 1 / beta)


class ScheduleFree(EvaluatedElsewhere):
    """What schedule-free optimizers share: points that step, their running average, and weights between the two.

    The average, weighted by the squares of the learning rates, is what is evaluated and kept.
    """

    averages_alone = True

    def __init__(self, params: Any, lr: float, beta: float, weight_decay: float, **defaults: Any) -> None:
        in_range("beta", beta, high=1.0, open_low=True, open_high=True)
        progress = {"steps": 0, "weight_sum": 0.0, "highest_lr": 0.0}
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay, **defaults, **progress})

    @abstractmethod
    def direction(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """What each of the parameters goes along, downwards, without weight decay."""

    def evaluated(self) -> list[tuple[Tensor, Tensor]]:
        """The averages."""
        return [
            (p, schedule_free_average(p, self.state[p]["z"], group["beta"]))
            for group in self.param_groups
            for p in group["params"]
            if "z" in self.state.get(p, {})
        ]

    def point(self, parameter: Tensor) -> Tensor | None:
        """The point that takes the steps."""
        found: Tensor | None = self.state.get(parameter, {}).get("z")
        return found

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.

        Args:
            closure: computes the loss and its gradients.
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
    """SGD without a schedule: a constant learning rate after a warm-up, and the average of all steps as the result.

    The learning rate is larger than that of `sgd`, 10 to 50 times, say, and `model.schedule` is
    `{name: constant, warmup: 0.05}`. Weight decay is part of the gradient. What is validated, tested and kept is the
    average; running statistics of batch norm are those of the weights that train, which are near it.

    Args:
        params: parameters or groups of them.
        lr: the learning rate.
        beta: how near the weights that train are to the average, in the place of a momentum.
        weight_decay: as of `sgd`.

    Source: Defazio et al., The Road Less Scheduled, 2024, arXiv:2405.15682.

    Example::

        optimizer: {name: schedule_free_sgd, lr: 1.0, weight_decay: 5e-4}
        schedule: {name: constant, warmup: 0.05}
    """

    def __init__(self, params: Any, lr: float = 1.0, beta: float = 0.9, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr, beta, weight_decay)

    def direction(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The gradients."""
        return gradients


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW without a schedule: a constant learning rate after a warm-up, and the average of all steps as the result.

    The learning rate is larger than that of `adamw`, 1 to 10 times, say, and `model.schedule` is
    `{name: constant, warmup: 0.05}`. What is validated, tested and kept is the average; running statistics of batch
    norm are those of the weights that train, which are near it.

    Args:
        params: parameters or groups of them.
        lr: the learning rate.
        beta: how near the weights that train are to the average, in the place of a momentum.
        beta2: how much of the mean square of the gradient stays at each step.
        eps: keeps from dividing by nothing.
        weight_decay: as of `adamw`.

    Source: Defazio et al., The Road Less Scheduled, 2024, arXiv:2405.15682.

    Example::

        optimizer: {name: schedule_free_adamw, lr: 0.0025, weight_decay: 0.05}
        schedule: {name: constant, warmup: 0.05}
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.0025,
        beta: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        in_range("beta2", beta2, high=1.0, open_high=True)
        in_range("eps", eps)
        super().__init__(params, lr, beta, weight_decay, beta2=beta2, eps=eps)

    def direction(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> list[Tensor]:
        """The gradients, over the roots of their running mean squares."""
        for parameter in parameters:
            state = self.state[parameter]
            if "mean_square" not in state:
                state["mean_square"] = torch.zeros_like(parameter)
                state["squares"] = 0  # a parameter that thaws later has had fewer of them than the group has had steps
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
