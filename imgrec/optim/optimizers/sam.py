"""Sharpness-aware minimization: a step by the gradient at the worst point nearby."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.optim.optimizers.registry import OPTIMIZERS
from imgrec.optim.optimizers.wrapper import OptimizerWrapper, chain, trained_parameters


def worst_nearby(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, eta: float | None = None
) -> list[Tensor]:
    """The way from the weights to the point nearby where the loss, taken as linear, is largest.

    Within a ball of radius ``rho`` around all weights together, that is ``rho * g / |g|``. With ``eta``, the ball is
    stretched to the size of each weight, ``T = |w| + eta``, and the way is ``rho * T^2 g / |T g|``, which scaling the
    weights of a layer up and of the next one down leaves as it is.

    Args:
        weights: tensors of any shapes.
        gradients: of the loss in the weights, likewise.
        rho: the radius.
        eta: what is added to the size of each weight; ``None`` for the plain ball.

    Returns:
        Tensors like the weights. Zeros where all gradients are zero.

    >>> worst_nearby([torch.zeros(2)], [torch.tensor([3.0, 4.0])], rho=0.5)[0]
    tensor([0.3000, 0.4000])
    """
    given = _of_size_one(gradients)
    if eta is None:
        return _of_length(given, given, rho)
    sizes = torch._foreach_add(torch._foreach_abs(list(weights)), eta)
    stretched = _of_size_one(torch._foreach_mul(sizes, given))
    return _of_length(torch._foreach_mul(stretched, sizes), stretched, rho)


def _of_size_one(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors divided by the largest absolute value in all of them, so that squares stay in range."""
    largest = torch.nn.utils.get_total_norm(list(tensors), norm_type=float("inf"))
    return list(torch._foreach_div(list(tensors), torch.where(largest > 0, largest, torch.ones_like(largest))))


def _of_length(tensors: Sequence[Tensor], measured: Sequence[Tensor], length: float) -> list[Tensor]:
    """Return the tensors times ``length`` over the norm of the measured ones; zeros stay."""
    norm = torch.nn.utils.get_total_norm(list(measured))
    return list(torch._foreach_mul(list(tensors), length / torch.where(norm > 0, norm, torch.ones_like(norm))))


class SharpnessAware(OptimizerWrapper):
    """Each step in two passes: up to the worst point nearby, and from the weights down by the gradient found there.

    In a task of imgrec the second pass is a part of the training step. There each process takes the worst point of its
    own images, and so does each batch of those that are accumulated, as the paper does with its devices: no gradient is
    exchanged for it. What is exchanged, accumulated, unscaled and clipped is the gradient of the second pass alone.
    Elsewhere, `step(closure)` calls the closure twice; without one, :meth:`ascend` and :meth:`descend` stand around the
    second pass.

    Args:
        base: the optimizer that makes the step, with the learning rate and all else.
        rho: the radius, above 0.
        eta: see :func:`worst_nearby`.
    """

    def __init__(self, base: Optimizer, rho: float, eta: float | None = None) -> None:
        _check(rho, eta)
        super().__init__(base)
        if any(isinstance(each, SharpnessAware) for each in list(chain(self))[1:]):
            raise UserError("`base`: there is a sharpness-aware optimizer inside already; one is enough.")
        self.rho = rho
        self.eta = eta
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._climbed = False

    @torch.no_grad()
    def ascend(self, gradients: Sequence[Tensor | None] | None = None) -> None:
        """Move the weights to the worst point nearby.

        Args:
            gradients: one for each of the parameters that are trained, in the order of the groups; by default those
                that the parameters hold.
        """
        self.descend()
        parameters = trained_parameters(self)
        found = [p.grad for p in parameters] if gradients is None else list(gradients)
        pairs = [(p, g) for p, g in zip(parameters, found, strict=True) if g is not None]
        if not pairs:
            raise UserError("there is no gradient to go up by: call backward() before ascend().")
        moved = [p for p, _ in pairs]
        self._weights = [(p, p.detach().clone()) for p in moved]
        torch._foreach_add_(moved, worst_nearby(moved, [g for _, g in pairs], self.rho, self.eta))

    @torch.no_grad()
    def descend(self) -> None:
        """Put the weights back, bit for bit, after the second pass's backward."""
        for parameter, weights in self._weights:
            parameter.copy_(weights)
            self._climbed = True
        self._weights = []

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The step of the optimizer inside, by the gradients of the second pass.

        Args:
            closure: computes the loss and its gradients. It is called twice, unless it makes both passes itself.

        Raises:
            UserError: there is no closure, and nobody has called :meth:`ascend` and :meth:`descend`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._climbed:
            if closure is None:
                raise UserError(
                    "a sharpness-aware step needs two passes: give step() a closure, or call ascend() after the first "
                    "backward and descend() after the second."
                )
            self.ascend()
            with torch.enable_grad():
                closure()
            self.descend()
        self._climbed = False
        self.base.step()
        return loss


def _check(rho: float, eta: float | None = None) -> None:
    in_range("rho", rho, open_low=True)
    if eta is not None:
        in_range("eta", eta)


@OPTIMIZERS.register("sam")
class Sam(SharpnessAware):
    """Sharpness-aware minimization around another optimizer: flat minima, for twice the time of a step.

    Each step is made by the gradient at the worst point within `rho` of the weights. The loss that is logged is that at
    the weights; running statistics of batch norm are those of the first pass; both passes drop the same units.
    Penalties of `model.regularizers` are part of the loss in both; `weight_decay` is not. fp16, bf16, accumulation,
    clipping and DDP work as without it: see :class:`imgrec.optim.SharpnessAware`. Weights that are sharded, by fsdp2,
    are refused.

    Args:
        base: the optimizer that makes the step, and its `lr`.
        rho: how far the worst point may be, above 0: 0.05, or 0.1 and more for small images and networks.

    Source: Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, 2021, arXiv:2010.01412.

    Example::

        optimizer: {name: sam, rho: 0.05, base: {name: nesterov, lr: 0.1, weight_decay: 5e-4}}
    """

    def __init__(self, base: Annotated[Any, OPTIMIZERS], rho: float = 0.05) -> None:
        super().__init__(base, rho)

    @staticmethod
    def check_arguments(rho: float = 0.05, **given: Any) -> None:
        """Refuse a radius that is none."""
        _check(rho)


@OPTIMIZERS.register("asam")
class Asam(SharpnessAware):
    """Adaptive sharpness-aware minimization: as `sam`, with a ball as wide in each direction as the weight there.

    Args:
        base: the optimizer that makes the step, and its `lr`.
        rho: how far the worst point may be, in sizes of weights, above 0: about ten times that of `sam`.
        eta: what is added to the size of each weight.

    Source: Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
    Networks, 2021, arXiv:2102.11600.

    Example::

        optimizer: {name: asam, rho: 0.5, base: {name: nesterov, lr: 0.1, weight_decay: 5e-4}}
    """

    def __init__(self, base: Annotated[Any, OPTIMIZERS], rho: float = 0.5, eta: float = 0.01) -> None:
        super().__init__(base, rho, eta)

    @staticmethod
    def check_arguments(rho: float = 0.5, eta: float = 0.01, **given: Any) -> None:
        """Refuse a radius that is none."""
        _check(rho, eta)


def sharpness_aware(optimizer: Optimizer) -> SharpnessAware | None:
    """The sharpness-aware one among an optimizer and those inside it."""
    return next((each for each in chain(optimizer) if isinstance(each, SharpnessAware)), None)
