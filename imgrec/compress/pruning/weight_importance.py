"""How much a single weight matters: the criteria of unstructured pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

Criterion = Literal["magnitude", "taylor", "snip", "movement", "random"]
Tensors = list[Tensor]


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: small weights matter little.

    Source: Han et al., 2015, "Learning both weights and connections", arXiv 1506.02626.
    """
    return weight.abs()


def add_taylor(sums: Tensors, weights: Tensors, gradients: Tensors) -> None:
    """Adds ``(w g)^2``: how much the loss would change, to first order, if the weight were zero; averaged over steps.

    Source: Molchanov et al., 2019, "Importance estimation for neural network pruning", arXiv 1906.10771.
    """
    changes = torch._foreach_mul(weights, gradients)
    torch._foreach_addcmul_(sums, changes, changes)


def add_snip(sums: Tensors, weights: Tensors, gradients: Tensors) -> None:
    """Adds ``w g``; its size is taken after the sum over batches: made for pruning before training.

    Source: Lee et al., 2019, "SNIP: single-shot network pruning", arXiv 1810.02340.
    """
    torch._foreach_addcmul_(sums, weights, gradients)


def add_movement(sums: Tensors, weights: Tensors, gradients: Tensors) -> None:
    """Adds ``-w g``: the sum over steps is positive where training moves a weight away from zero.

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
"""What a criterion adds at each step, in place; ``None`` where it needs no gradients."""


@torch.no_grad()
def accumulate(
    sums: dict[str, Tensor],
    weights: Mapping[str, Tensor],
    criterion: Criterion,
    scale: float = 1.0,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Add what one step says of each weight to ``sums``, in place.

    Args:
        sums: by name, float32; a name that is missing begins at zero.
        weights: parameters by name, after ``backward``; one without a gradient says nothing.
        criterion: one that needs gradients.
        scale: what the gradients are to be divided by, as where a loss is scaled.
        values: by name, what the weights are taken to be, where that is not what they are.

    Raises:
        ValueError: the criterion needs no gradients.
    """
    add = SCORES[criterion]
    if add is None:
        raise ValueError(f"{criterion} does not look at gradients")
    named = {name: weight for name, weight in weights.items() if weight.grad is not None}
    if not named:
        return
    gradients = [weight.grad.float() for weight in named.values() if weight.grad is not None]
    if scale != 1.0:
        gradients = list(torch._foreach_div(gradients, scale))
    for name, weight in named.items():
        if name not in sums:
            sums[name] = torch.zeros_like(weight, dtype=torch.float32)
    taken = [(weight if values is None else values[name]).detach().float() for name, weight in named.items()]
    add([sums[name] for name in named], taken, gradients)


@torch.no_grad()
def score(
    weights: Mapping[str, Tensor],
    criterion: Criterion,
    sums: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """How much each weight matters, by name; more is more.

    Args:
        weights: parameters by name.
        criterion: what matters.
        sums: what :func:`accumulate` gathered, for a criterion that needs gradients.
        generator: for ``random``, which is the control.

    Raises:
        ValueError: gradients are needed and were not gathered, or there is no generator for ``random``.
    """
    if criterion == "magnitude":
        return {name: magnitude(weight.detach().float()) for name, weight in weights.items()}
    if criterion == "random":
        if generator is None:
            raise ValueError("random scores need a generator")
        return {
            name: torch.rand(weight.shape, generator=generator).to(weight.device) for name, weight in weights.items()
        }
    missing = [name for name in weights if name not in (sums or {})]
    if sums is None or missing:
        raise ValueError(f"{criterion} needs the gradients of {', '.join(missing) or 'every weight'}")
    return {name: sums[name].abs() if criterion == "snip" else sums[name].clone() for name in weights}
