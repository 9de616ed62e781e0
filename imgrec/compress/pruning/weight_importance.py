"""Importance criteria of single weights for unstructured pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

Criterion = Literal["magnitude", "taylor", "snip", "movement", "random"]
Tensors = list[Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """Return ``|w|``.

    Source: Han et al., 2015, "Learning both weights and connections", arXiv 1506.02626.
    """
    return weight.abs()


def add_taylor(sums: Tensors, weights: Tensors, gradients: Tensors) -> None:
    """Add ``(w g)^2``, the squared first-order change of the loss if the weight were zero.

    Source: Molchanov et al., 2019, "Importance estimation for neural network pruning", arXiv 1906.10771.
    """
    changes = torch._foreach_mul(weights, gradients)
    torch._foreach_addcmul_(sums, changes, changes)


def add_snip(sums: Tensors, weights: Tensors, gradients: Tensors) -> None:
    """Add ``w g``. The absolute value is computed after the sum over batches. For pruning before training.

    Source: Lee et al., 2019, "SNIP: single-shot network pruning", arXiv 1810.02340.
    """
    torch._foreach_addcmul_(sums, weights, gradients)


def add_movement(sums: Tensors, weights: Tensors, gradients: Tensors) -> None:
    """Add ``-w g``. The sum over steps is positive for a weight that training moves away from zero.

    Source: Sanh et al., 2020, "Movement pruning", arXiv 2005.07683.
    """
    torch._foreach_addcmul_(sums, weights, gradients, value=-1)


SCORES: dict[Criterion, Callable[[Tensors, Tensors, Tensors], None] | None] = {
    "magnitude": None,
    "random": None,
    "taylor": add_taylor,
    "snip": add_snip,
    "movement": add_movement,
}
"""In-place update of the sums of each criterion at each step, or ``None`` for criteria without gradients."""


@torch.no_grad()
def accumulate(
    sums: dict[str, Tensor],
    weights: Mapping[str, Tensor],
    criterion: Criterion,
    scale: float = 1.0,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Add the scores of one step to ``sums``, in place.

    Args:
        sums: Sums by name, float32. A missing name starts at zero.
        weights: Parameters by name, after ``backward``. Parameters without a gradient are skipped.
        criterion: Criterion that requires gradients.
        scale: Divisor of the gradients, for a scaled loss. Defaults to 1.
        values: Values by name to use instead of the weights. Defaults to the weights.

    Raises:
        ValueError: If the criterion requires no gradients.
    """
    add = SCORES[criterion]
    if add is None:
        raise ValueError(f"{criterion} requires no gradients")
    named = {name: weight for name, weight in weights.items() if weight.grad is not None}
    if not named:
        return
    gradients = [weight.grad.float() for weight in named.values() if weight.grad is not None]
    if scale != 1.0:
        gradients = list(torch._foreach_div(gradients, scale))
    for name, weight in named.items():
        if name not in sums:
            sums[name] = torch.zeros_like(weight, dtype=torch.float32)
    factors = [(weight if values is None else values[name]).detach().float() for name, weight in named.items()]
    add([sums[name] for name in named], factors, gradients)


@torch.no_grad()
def score(
    weights: Mapping[str, Tensor],
    criterion: Criterion,
    sums: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Return the importance of each weight by name. A higher value is more important.

    Args:
        weights: Parameters by name.
        criterion: Name of the criterion.
        sums: Sums of :func:`accumulate`, for a criterion that requires gradients.
        generator: Random generator, required by ``random``.

    Raises:
        ValueError: If required gradients were not accumulated, or there is no generator for ``random``.
    """
    if criterion == "magnitude":
        return {name: magnitude(weight.detach().float()) for name, weight in weights.items()}
    if criterion == "random":
        if generator is None:
            raise ValueError("random scores require a generator")
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()
        }
    missing = [name for name in weights if name not in (sums or {})]
    if sums is None or missing:
        raise ValueError(f"{criterion} requires the gradients of {', '.join(missing) or 'every weight'}")
    return {name: sums[name].abs() if criterion == "snip" else sums[name].clone() for name in weights}
