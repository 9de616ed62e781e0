"""Stages of a network for gradual unfreezing, from the images to the head."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from imgrec.errors import UserError
from imgrec.models.freezing import describe_scope
from imgrec.models.utils.layers import SHORT
from imgrec.models.utils.patterns import Scope, in_scope, scope_names


def split_stages(model: nn.Module, names: Collection[str]) -> list[tuple[str, list[str]]]:
    """Return the stages of the network of a classifier, from the images to the head: title and parameters of each.

    Networks of timm define their stages. In other networks the stages are the child modules in order. A child with most
    of the parameters is replaced by its own children.

    Args:
        model: Network, with or without a classifier around it.
        names: Names of the parameters to distribute. Stages without one of them are omitted.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Sequential(nn.Conv2d(2, 2, 1)), nn.Linear(2, 2))
    >>> [title for title, _ in split_stages(net, [name for name, _ in net.named_parameters()])]
    ['0', '1', '2']
    """
    path, network = _timm_network(model)
    numbered = _timm_stages(path, network) if network is not None else _parts(model, names)
    found: dict[int, list[str]] = {}
    for name in names:
        found.setdefault(numbered.get(name, max(numbered.values())), []).append(name)
    dims = {name: parameter.ndim for name, parameter in model.named_parameters()}
    stages: list[list[str]] = []
    for _, stage in sorted(found.items()):
        if stages and all(dims[name] < 2 for name in stage):
            stages[-1] += stage  # a last normalization is no separate stage
        else:
            stages.append(stage)
    return [
        (_title(stage, [name for other in stages if other is not stage for name in other]), stage) for stage in stages
    ]


def assign_stages(model: nn.Module, names: Collection[str], scopes: list[Scope], where: str) -> list[list[str]]:
    """Return the parameters among ``names`` that match each of ``scopes``, in this order, and then the remaining ones.

    Raises:
        UserError: If a scope matches nothing, or no frozen parameter that an earlier scope does not match.
    """
    remaining, found = list(names), []
    for number, scope in enumerate(scopes):
        scope_names(model, scope, f"{where}[{number}]")
        stage = [name for name in remaining if in_scope(name, scope)]
        if not stage:
            raise UserError(
                f"{where}[{number}]: {describe_scope(scope, None)} matches no parameter that is frozen until then."
            )
        found.append(stage)
        remaining = [name for name in remaining if name not in set(stage)]
    return [*found, remaining] if remaining else found


def _timm_network(model: nn.Module) -> tuple[str, Any]:
    found = (
        (name, module) for name, module in model.named_modules() if callable(getattr(module, "group_matcher", None))
    )
    return next(found, ("", None))


def _timm_stages(path: str, network: Any) -> dict[str, int]:
    from timm.models import group_parameters

    prefix = f"{path}." if path else ""
    numbers = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    return {f"{prefix}{name}": int(number) for name, number in numbers.items()}


def _parts(model: nn.Module, names: Collection[str]) -> dict[str, int]:
    """Return the index of the part of each parameter. Parts are child modules in the order of their creation."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name in names}
    parts = _children(model, "", sizes)
    while parts:
        weights = [sum(sizes[name] for name in inner_names) for _, _, inner_names in parts]
        largest = max(range(len(parts)), key=weights.__getitem__)
        path, part, _ = parts[largest]
        inner = _children(part, path, sizes)
        if not inner or (len(parts) > 2 and weights[largest] < 0.9 * sum(weights)):
            break
        parts[largest : largest + 1] = inner
    numbers = dict.fromkeys(sizes, 0)  # parameters outside of all parts, such as position embeddings, are in the first
    number, follows_layer = -1, False
    for _, part, inner_names in parts:
        is_layer = next(part.children(), None) is None
        if not (is_layer and follows_layer):  # consecutive single layers are one part
            number += 1
        follows_layer = is_layer
        numbers |= dict.fromkeys(inner_names, number)
    return numbers


def _children(module: nn.Module, path: str, sizes: Collection[str]) -> list[tuple[str, nn.Module, list[str]]]:
    """Return the child modules that contain parameters of ``sizes``, with their names and those of these parameters."""
    found = []
    for name, child in module.named_children():
        full = f"{path}.{name}" if path else name
        inner_names = [f"{full}.{inner}" for inner, _ in child.named_parameters() if f"{full}.{inner}" in sizes]
        if inner_names:
            found.append((full, child, inner_names))
    return found


def _title(stage: list[str], others: list[str]) -> str:
    """Return the title of a stage: the outermost modules whose parameters are all in it, or the first three of them.

    >>> _title(["blocks.1.0.weight", "blocks.1.1.weight", "norm.weight"], ["blocks.0.0.weight"])
    'blocks.1, norm'
    """
    shared = {prefix for name in others for prefix in _prefixes(name)}
    found: dict[str, None] = {}
    for name in stage:
        found[next((prefix for prefix in _prefixes(name) if prefix not in shared), name.removeprefix(SHORT))] = None
    first = list(found)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def _prefixes(name: str) -> list[str]:
    words = name.removeprefix(SHORT).split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]
