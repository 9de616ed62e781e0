"""Masks of single weights and N:M masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from imgrec.errors import UserError

Scope = Literal["global", "layer"]
_Weight = TypeVar("_Weight", bound=Tensor)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def prunable(
    model: nn.Module, include: Iterable[str] = ("*",), exclude: Iterable[str] = (), where: str = "prune"
) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by their names in the state dict.

    A weight that two layers share is returned once.

    Args:
        model: Network.
        include: Shell-style patterns of layer names, for example ``layer4.*``. Defaults to all.
        exclude: Patterns of layers to skip. Defaults to none.
        where: Key in the config, for messages.

    Raises:
        UserError: If a pattern matches no layer, or no layer remains.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, _LAYERS)}
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in layers):
            known = list(layers)
            raise UserError(
                f'{where}: "{pattern}" matches no layer. The layers are {", ".join(known[:6])}'
                f"{f' and {len(known) - 6} more' if len(known) > 6 else ''}."
            )
    found: dict[str, nn.Parameter] = {}
    for name, module in layers.items():
        weight = module.get_parameter("weight")
        is_selected = any(fnmatchcase(name, p) for p in include) and not any(fnmatchcase(name, p) for p in exclude)
        if is_selected and not any(weight is other for other in found.values()):
            found[f"{name}.weight" if name else "weight"] = weight
    if not found:
        raise UserError(f"{where}: no layer is left to prune")
    return found


def first_and_last(model: nn.Module) -> list[str]:
    """Return the names of the first and the last convolution or linear layer.

    Most of the literature does not prune them, because they are small and important. In a network with a module
    ``head``, the last layer is the last one of that module, if it has any.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, _LAYERS)]
    heads = [name for name in layers if name.split(".")[0] == "head"] if hasattr(model, "head") else layers
    return list(dict.fromkeys([*layers[:1], *heads[-1:]]))


def fit_for(weights: Mapping[str, _Weight], m: int) -> dict[str, _Weight]:
    """Return the weights whose number of inputs is a multiple of ``m``, as :func:`n_of_m` requires."""
    return {name: weight for name, weight in weights.items() if weight.shape[1] % m == 0}


def keep_best(scores: Mapping[str, Tensor], sparsity: float, scope: Scope = "global") -> dict[str, Tensor]:
    """Return masks that keep exactly ``round((1 - sparsity) * count)`` weights with the largest scores.

    Of equal scores, the earlier ones are kept, so that the result is deterministic.

    Args:
        scores: Scores by name, of any shapes.
        sparsity: Share of weights to mask, in [0, 1].
        scope: ``global`` compares the weights of all layers, ``layer`` prunes each by the same share. Defaults to
            ``global``.

    Returns:
        Boolean masks in the shapes of the scores. True keeps a weight.

    Raises:
        ValueError: If the sparsity is out of range, or a score is NaN.

    Example:
        >>> keep_best({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 0.0])}, 0.5)
        {'a': tensor([ True, False]), 'b': tensor([ True, False])}
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"expected a sparsity in [0, 1], got {sparsity}")
    if scope == "layer":
        return {name: _keep(value.flatten(), sparsity).view_as(value) for name, value in scores.items()}
    kept = _keep(torch.cat([value.flatten() for value in scores.values()]), sparsity)
    parts = torch.split(kept, [value.numel() for value in scores.values()])
    return {name: part.view_as(value) for (name, value), part in zip(scores.items(), parts, strict=True)}


def _keep(scores: Tensor, sparsity: float) -> Tensor:
    if scores.isnan().any():
        raise ValueError("a score is NaN")
    count = round((1 - sparsity) * len(scores))
    if count == len(scores) or not count:
        return torch.full_like(scores, bool(count), dtype=torch.bool)
    edge = scores.kthvalue(len(scores) - count + 1).values
    kept = scores > edge
    equal = (scores == edge).nonzero().flatten()
    kept[equal[: count - int(kept.sum())]] = True
    return kept


def n_of_m(scores: Tensor, n: int = 2, m: int = 4) -> Tensor:
    """Return a mask that keeps the ``n`` largest scores of every ``m`` consecutive inputs.

    In a convolution, a group consists of ``m`` input channels at one kernel position, as 2:4 sparse tensor cores read
    the weights.

    Args:
        scores: Scores, ``(out, in, ...)``, with ``in`` a multiple of ``m``.
        n: Number of weights to keep per group, 1 to ``m``. Defaults to 2.
        m: Size of a group. Defaults to 4.

    Returns:
        Boolean mask in the shape of the scores.

    Raises:
        ValueError: If the number of inputs is not a multiple of ``m``, or ``n`` is out of range.

    Example:
        >>> n_of_m(torch.tensor([[4.0, 1.0, 3.0, 2.0]]))
        tensor([[ True, False,  True, False]])

    Source: Mishra et al., 2021, "Accelerating sparse deep neural networks", arXiv 2104.08378.
    """
    if scores.dim() < 2 or scores.shape[1] % m or not 1 <= n <= m:
        raise ValueError(f"cannot keep {n} of every {m} weights in a shape of {tuple(scores.shape)}")
    groups = scores.movedim(1, -1).reshape(-1, scores.shape[1] // m, m)
    order = groups.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, order[..., :n], True)
    return kept.view(scores.movedim(1, -1).shape).movedim(-1, 1).contiguous()


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set masked weights to zero in place, including infinite and NaN values."""
    for name, mask in masks.items():
        weights[name].masked_fill_(~mask, 0)


def sparsity_of(weights: Mapping[str, Tensor]) -> float:
    """Return the share of zeros among some weights."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / max(1, sum(weight.numel() for weight in weights.values()))
