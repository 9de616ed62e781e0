"""How much a single weight matters: the criteria of unstructured pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

Criterion = Literal["magnitude", "taylor", "snip", "movement", "random"]


def magnitude(weight: Tensor) -> Tensor:
    """``|w|``: small weights matter little.

    Source: Han et al., 2015, "Learning both weights and connections", arXiv 1506.02626.
    """
    return weight.abs()


def taylor(weight: Tensor, gradient: Tensor) -> Tensor:
    """``(w g)^2``: how much the loss would change, to first order, if the weight were zero; averaged over steps.

    Source: Molchanov et al., 2019, "Importance estimation for neural network pruning", arXiv 1906.10771.
    """
    return (weight * gradient).square()


def snip(weight: Tensor, gradient: Tensor) -> Tensor:
    """``w g``, summed over batches before its size is taken: made for pruning before training.

    Source: Lee et al., 2019, "SNIP: single-shot network pruning", arXiv 1810.02340.
    """
    return weight * gradient


def movement(weight: Tensor, gradient: Tensor) -> Tensor:
    """``-w g``, summed over steps: positive where training moves a weight away from zero.

    Source: Sanh et al., 2020, "Movement pruning", arXiv 2005.07683.
    """
    return -weight * gradient


SCORES: dict[Criterion, Callable[[Tensor, Tensor], Tensor] | None] = {
    "magnitude": None,
    "random": None,
    "taylor": taylor,
    "snip": snip,
    "movement": movement,
}
"""What a criterion adds at each step; ``None`` where it needs no gradients."""


@torch.no_grad()
def accumulate(
    sums: dict[str, Tensor], weights: Mapping[str, Tensor], criterion: Criterion, scale: float = 1.0
) -> None:
    """Add what one step says of each weight to ``sums``, in place.

    Args:
        sums: by name, float32; a name that is missing begins at zero.
        weights: parameters by name, after ``backward``; one without a gradient says nothing.
        criterion: one that needs gradients.
        scale: what the gradients are to be divided by, as where a loss is scaled.

    Raises:
        ValueError: the criterion needs no gradients.
    """
    step = SCORES[criterion]
    if step is None:
        raise ValueError(f"{criterion} does not look at gradients")
    for name, weight in weights.items():
        if weight.grad is None:
            continue
        added = step(weight.detach().float(), weight.grad.float() / scale)
        if name in sums:
            sums[name].add_(added)
        else:
            sums[name] = added.clone()


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
