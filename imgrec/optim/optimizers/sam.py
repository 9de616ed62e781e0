"""Sharpness-aware minimization (SAM): a step with the gradient at the worst point nearby."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from imgrec.errors import UserError
from imgrec.optim.optimizers.registry import OPTIMIZERS
from imgrec.optim.optimizers.wrapper import OptimizerWrapper, chain, trained_parameters
from imgrec.utils.ranges import NonNegativeFloat, PositiveFloat, check_ranges


def sam_perturbation(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], rho: float, eta: float | None = None
) -> list[Tensor]:
    """Return the perturbation of the weights that maximizes the linearized loss.

    Within a ball of radius ``rho`` around all weights it is ``rho * g / |g|``. With ``eta``, the ball is scaled by the
    size of each weight, ``T = |w| + eta``, and the perturbation is ``rho * T^2 g / |T g|``. It is invariant to scaling
    the weights of a layer up and those of the next layer down.

    Args:
        weights: Tensors of any shapes.
        gradients: Gradients of the loss, in the shapes of the weights.
        rho: Radius of the ball.
        eta: Constant added to the size of each weight. Defaults to ``None``, the unscaled ball.

    Returns:
        Tensors in the shapes of the weights. Zeros if all gradients are zero.

    >>> sam_perturbation([torch.zeros(2)], [torch.tensor([3.0, 4.0])], rho=0.5)[0]
    tensor([0.3000, 0.4000])
    """
    scaled = _normalize_by_max(gradients)
    if eta is None:
        return _scale_to_length(scaled, scaled, rho)
    sizes = torch._foreach_add(torch._foreach_abs(list(weights)), eta)
    stretched = _normalize_by_max(torch._foreach_mul(sizes, scaled))
    return _scale_to_length(torch._foreach_mul(stretched, sizes), stretched, rho)


def _normalize_by_max(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors divided by the largest absolute value in all of them, so that squares stay in range."""
    largest = torch.nn.utils.get_total_norm(list(tensors), norm_type=float("inf"))
    return list(torch._foreach_div(list(tensors), torch.where(largest > 0, largest, torch.ones_like(largest))))


def _scale_to_length(tensors: Sequence[Tensor], measured: Sequence[Tensor], length: float) -> list[Tensor]:
    """Return the tensors times ``length`` over the norm of the measured ones. Zeros remain zero."""
    norm = torch.nn.utils.get_total_norm(list(measured))
    return list(torch._foreach_mul(list(tensors), length / torch.where(norm > 0, norm, torch.ones_like(norm))))


class SharpnessAware(OptimizerWrapper):
    """Base class of optimizers with two passes per step: perturb the weights, then step with the gradient found there.

    In a task of imgrec the second pass is part of the training step. Each process, and each accumulated batch, uses the
    worst point of the images it holds, as the paper does with its devices. No gradient is exchanged for the first pass.
    Only the gradient of the second pass is exchanged, accumulated, unscaled and clipped. Otherwise ``step(closure)``
    calls the closure twice. Without a closure, call :meth:`perturb` before and :meth:`restore` after the second pass.

    Args:
        base: Wrapped optimizer, which takes the step.
        rho: Radius, above 0.
        eta: Constant of the scaled ball, see :func:`sam_perturbation`. Defaults to ``None``.
    """

    @check_ranges
    def __init__(self, base: Optimizer, rho: PositiveFloat, eta: NonNegativeFloat | None = None) -> None:
        super().__init__(base)
        if any(isinstance(each, SharpnessAware) for each in list(chain(self))[1:]):
            raise UserError("base: expected an optimizer that is not sharpness-aware.")
        self.rho = rho
        self.eta = eta
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._has_second_pass = False

    @torch.no_grad()
    def perturb(self, gradients: Sequence[Tensor | None] | None = None) -> None:
        """Move the weights to the worst point nearby.

        Args:
            gradients: Gradients of the trained parameters, in the order of the groups. Defaults to ``.grad`` of each
                parameter.
        """
        self.restore()
        parameters = trained_parameters(self)
        found = [p.grad for p in parameters] if gradients is None else list(gradients)
        pairs = [(p, g) for p, g in zip(parameters, found, strict=True) if g is not None]
        if not pairs:
            raise UserError("perturb: requires a gradient. Call backward() first.")
        moved = [p for p, _ in pairs]
        self._weights = [(p, p.detach().clone()) for p in moved]
        torch._foreach_add_(moved, sam_perturbation(moved, [g for _, g in pairs], self.rho, self.eta))

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the weights exactly, after the backward pass of the second pass."""
        for parameter, weights in self._weights:
            parameter.copy_(weights)
            self._has_second_pass = True
        self._weights = []

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take the step of the wrapped optimizer with the gradients of the second pass.

        Args:
            closure: Function that computes the loss and its gradients. It is called twice, unless it runs both passes
                itself.

        Raises:
            UserError: If there is no closure, and :meth:`perturb` and :meth:`restore` were not called.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._has_second_pass:
            if closure is None:
                raise UserError(
                    "a sharpness-aware step requires two passes. Pass a closure to step(), or call perturb() after the "
                    "first backward and restore() after the second."
                )
            self.perturb()
            with torch.enable_grad():
                closure()
            self.restore()
        self._has_second_pass = False
        self.base.step()
        return loss


@OPTIMIZERS.register("sam")
class Sam(SharpnessAware):
    """Sharpness-aware minimization around another optimizer: flat minima, at twice the time per step.

    Each step uses the gradient at the worst point within ``rho`` of the weights. The logged loss is the one at the
    weights. Running statistics of batch normalization are those of the first pass. Both passes use the same dropout
    mask. Penalties of ``model.regularizers`` are part of the loss in both passes, ``weight_decay`` is not. fp16, bf16,
    accumulation, clipping and DDP are supported, see :class:`imgrec.optim.SharpnessAware`. Weights sharded by
    fsdp2 raise an error.

    Args:
        base: Wrapped optimizer, which takes the step, with its ``lr``.
        rho: Radius, above 0. 0.1 and more is usual for small images and networks. Defaults to 0.05.

    See Also:
        :class:`Asam`. Use it instead if the scale of the weights differs much between layers.

    Source: Foret et al., Sharpness-Aware Minimization for Efficiently Improving Generalization, 2021, arXiv:2010.01412.

    Example::

        optimizer: {name: sam, rho: 0.05, base: {name: nesterov, lr: 0.1, weight_decay: 5e-4}}

    >>> weight = torch.nn.Parameter(torch.tensor([1.0]))
    >>> optimizer = Sam(torch.optim.SGD([weight], lr=0.1), rho=0.5)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = weight.square().sum()
    ...     loss.backward()
    ...     return loss
    >>> _ = optimizer.step(closure)
    >>> round(weight.item(), 4)  # 1 - 0.1 * 2 * 1.5
    0.7
    """

    @check_ranges
    def __init__(self, base: Annotated[Any, OPTIMIZERS], rho: PositiveFloat = 0.05) -> None:
        super().__init__(base, rho)


@OPTIMIZERS.register("asam")
class Asam(SharpnessAware):
    """Adaptive sharpness-aware minimization: ``sam`` with a ball scaled by the size of each weight.

    Args:
        base: Wrapped optimizer, which takes the step, with its ``lr``.
        rho: Radius relative to the size of the weights, above 0, about ten times that of ``sam``. Defaults to 0.5.
        eta: Constant added to the size of each weight, at least 0. Defaults to 0.01.

    See Also:
        :class:`Sam`. Use it instead for the original method with one parameter.

    Source: Kwon et al., ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
    Networks, 2021, arXiv:2102.11600.

    Example::

        optimizer: {name: asam, rho: 0.5, base: {name: nesterov, lr: 0.1, weight_decay: 5e-4}}

    >>> Asam(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)).rho
    0.5
    """

    @check_ranges
    def __init__(
        self, base: Annotated[Any, OPTIMIZERS], rho: PositiveFloat = 0.5, eta: NonNegativeFloat = 0.01
    ) -> None:
        super().__init__(base, rho, eta)


def sharpness_aware(optimizer: Optimizer) -> SharpnessAware | None:
    """Return the sharpness-aware optimizer among an optimizer and those that it wraps, or ``None``."""
    return next((each for each in chain(optimizer) if isinstance(each, SharpnessAware)), None)
