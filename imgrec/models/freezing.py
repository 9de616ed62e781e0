"""Parameters that do not train: which ones a scope means, the stages that thaw one after the other, batch norm."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, Literal, cast, get_args

from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.layers import SHORT
from imgrec.models.utils.patterns import Scope, in_scope, scope_names

NormPolicy = Literal["frozen", "statistics", "trained"]
"""What batch norm does in a frozen part: nothing, follow the statistics of the new images, or train as if it were not
frozen."""


def norm_policy(word: str, where: str) -> NormPolicy:
    """``word``, which has to be one of :data:`NormPolicy`."""
    accepted = get_args(NormPolicy)
    if word not in accepted:
        raise UserError(f'{where} is one of {", ".join(accepted)}, got "{word}".{suggestion(str(word), accepted)}')
    return cast(NormPolicy, word)


def frozen_names(
    model: nn.Module,
    scope: Scope,
    all_but: Scope = None,
    batch_norm: NormPolicy = "frozen",
    where: str = "scope",
) -> list[str]:
    """The names of the parameters that stay as they are, in the order of the network.

    Args:
        model: any network; what has no gradient already is nobody's to freeze, and not among them.
        scope: see :func:`imgrec.models.utils.patterns.scope_names`.
        all_but: leave out what this scope means.
        batch_norm: ``trained`` leaves out the weights and biases of batch norm.
        where: the place in the config, for messages.

    Raises:
        UserError: a pattern means nothing, or nothing is left to train.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Linear(1, 1))
    >>> frozen_names(net, None, all_but="2"), frozen_names(net, ["0", "1"], batch_norm="trained")
    (['0.weight', '0.bias', '1.weight', '1.bias'], ['0.weight', '0.bias'])
    """
    spared = set(scope_names(model, all_but, f"{where}, all_but")) if all_but is not None else set()
    if batch_norm == "trained":
        spared |= {f"{n}.{own}" for n, norm in _batch_norms(model) for own, _ in norm.named_parameters(recurse=False)}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = [name for name in scope_names(model, scope, where) if name in trainable and name not in spared]
    if not found:
        raise UserError(f"{where}: {_said(scope, all_but)} leaves nothing to freeze.")
    refuse_all_frozen(model, found, f"{where}: {_said(scope, all_but)}")
    return found


def refuse_all_frozen(model: nn.Module, frozen: Collection[str], what: str) -> None:
    """Raise :class:`UserError` where none of the trainable parameters of ``model`` is outside ``frozen``."""
    if all(name in frozen for name, parameter in model.named_parameters() if parameter.requires_grad):
        raise UserError(
            f"{what} freezes every parameter, and nothing is left to train: name a part of the network, such as "
            "`backbone`, or what is to train with `all_but`."
        )


def held_norms(model: nn.Module, frozen: Collection[str]) -> list[nn.Module]:
    """The batch norms of a frozen part, which normalize by their running statistics and leave these as they are.

    They are those whose weights and biases are all among ``frozen``; and those without any that stand beside parameters
    which are.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    >>> held_norms(net, {"0.weight", "0.bias", "1.weight", "1.bias"}) == [net[1]]
    True
    """
    names, found = [name for name, _ in model.named_parameters()], []
    for path, norm in _batch_norms(model):
        own = [f"{path}.{name}" for name, _ in norm.named_parameters(recurse=False)]
        if not own:
            around = path.rpartition(".")[0]
            own = [name for name in names if name.startswith(f"{around}." if around else "")]
        if own and all(name in frozen for name in own):
            found.append(norm)
    return found


def set_frozen(model: nn.Module, trainable: Collection[str], frozen: Collection[str]) -> None:
    """Of the parameters ``trainable``, let exactly those of ``frozen`` have no gradient.

    An optimizer passes over a parameter without a gradient: neither momentum nor weight decay moves it, and what it
    keeps of it stays as it is.
    """
    for name, parameter in model.named_parameters():
        if name in trainable:
            parameter.requires_grad_(name not in frozen)
            if name in frozen:
                parameter.grad = None


def stages_of(model: nn.Module, names: Collection[str]) -> list[tuple[str, list[str]]]:
    """The stages of a classifier's network, from the images to the head: what each is called, and its parameters.

    A network of timm says by itself what its stages are; of another one they are its parts, one after the other, and
    what is large and made of parts is taken apart.

    Args:
        model: a network, with or without a classifier around it.
        names: the parameters in question; a stage without one of them is left out.
    """
    place, network = _timm_network(model)
    numbered = _timm_stages(place, network) if network is not None else _parts(model, names)
    found: dict[int, list[str]] = {}
    for name in names:
        found.setdefault(numbered.get(name, max(numbered.values())), []).append(name)
    dims = {name: parameter.ndim for name, parameter in model.named_parameters()}
    stages: list[list[str]] = []
    for _, stage in sorted(found.items()):
        if stages and all(dims[name] < 2 for name in stage):
            stages[-1] += stage  # a last norm is no stage of its own
        else:
            stages.append(stage)
    return [
        (_title(stage, [name for other in stages if other is not stage for name in other]), stage) for stage in stages
    ]


def named_stages(model: nn.Module, names: Collection[str], scopes: list[Scope], where: str) -> list[list[str]]:
    """The parameters among ``names`` that each of ``scopes`` means, in this order; what none means comes last.

    Raises:
        UserError: a scope means nothing, or nothing that is frozen and that no scope before it means.
    """
    left, found = list(names), []
    for number, scope in enumerate(scopes):
        scope_names(model, scope, f"{where}[{number}]")
        stage = [name for name in left if in_scope(name, scope)]
        if not stage:
            raise UserError(f"{where}[{number}]: {_said(scope, None)} means nothing that is frozen until then.")
        found.append(stage)
        left = [name for name in left if name not in set(stage)]
    return [*found, left] if left else found


def _batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Whatever keeps running statistics."""
    for name, module in model.named_modules():
        if any(key.startswith("running_") and value is not None for key, value in module._buffers.items()):
            yield name, module


def _timm_network(model: nn.Module) -> tuple[str, Any]:
    found = (
        (name, module) for name, module in model.named_modules() if callable(getattr(module, "group_matcher", None))
    )
    return next(found, ("", None))


def _timm_stages(place: str, network: Any) -> dict[str, int]:
    from timm.models import group_parameters

    before = f"{place}." if place else ""
    numbers = group_parameters(network, network.group_matcher(coarse=True), reverse=True)
    return {f"{before}{name}": int(number) for name, number in numbers.items()}


def _parts(model: nn.Module, names: Collection[str]) -> dict[str, int]:
    """The number of the part that each parameter belongs to: children, in the order in which they were made."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters() if name in names}
    parts = _children(model, "", sizes)
    while parts:
        weights = [sum(sizes[name] for name in own) for _, _, own in parts]
        largest = max(range(len(parts)), key=weights.__getitem__)
        path, part, _ = parts[largest]
        inner = _children(part, path, sizes)
        if not inner or (len(parts) > 2 and weights[largest] < 0.9 * sum(weights)):
            break
        parts[largest : largest + 1] = inner
    numbers = dict.fromkeys(sizes, 0)  # what stands in no part, position embeddings, say, is for the beginning
    number, alone = -1, False
    for _, part, own in parts:
        layer = next(part.children(), None) is None
        if not (layer and alone):  # single layers that follow one another are one part
            number += 1
        alone = layer
        numbers |= dict.fromkeys(own, number)
    return numbers


def _children(module: nn.Module, path: str, sizes: Collection[str]) -> list[tuple[str, nn.Module, list[str]]]:
    """The children that hold parameters in question, with their names and those of the parameters."""
    found = []
    for name, child in module.named_children():
        place = f"{path}.{name}" if path else name
        own = [f"{place}.{inner}" for inner, _ in child.named_parameters() if f"{place}.{inner}" in sizes]
        if own:
            found.append((place, child, own))
    return found


def _title(stage: list[str], others: list[str]) -> str:
    """What a stage is called: the outermost modules that hold parameters of it alone, or the first of them.

    >>> _title(["blocks.1.0.weight", "blocks.1.1.weight", "norm.weight"], ["blocks.0.0.weight"])
    'blocks.1, norm'
    """
    taken = {prefix for name in others for prefix in _prefixes(name)}
    found: dict[str, None] = {}
    for name in stage:
        found[next((prefix for prefix in _prefixes(name) if prefix not in taken), name.removeprefix(SHORT))] = None
    first = list(found)
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def _prefixes(name: str) -> list[str]:
    words = name.removeprefix(SHORT).split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]


def _said(scope: Scope, all_but: Scope) -> str:
    patterns = "everything" if scope is None else scope if isinstance(scope, str) else ", ".join(scope)
    if all_but is None:
        return patterns
    spared = all_but if isinstance(all_but, str) else ", ".join(all_but)
    return f"{patterns} but {spared}" if scope is not None else f"all but {spared}"
