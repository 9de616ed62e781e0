"""Frozen parameters: their selection by a scope, and the batch normalization of frozen parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal, cast, get_args

from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.patterns import Scope, scope_names

NormPolicy = Literal["frozen", "statistics", "trained"]
"""Batch normalization in a frozen part: frozen, update of the running statistics only, or trained."""


def parse_norm_policy(word: str, where: str) -> NormPolicy:
    """Return ``word`` if it is one of :data:`NormPolicy`.

    Raises:
        UserError: If it is not.
    """
    accepted = get_args(NormPolicy)
    if word not in accepted:
        raise UserError(
            f'{where}: expected one of {", ".join(accepted)}, got "{word}".{suggestion(str(word), accepted)}'
        )
    return cast(NormPolicy, word)


def select_frozen(
    model: nn.Module,
    scope: Scope,
    all_but: Scope = None,
    batch_norm: NormPolicy = "frozen",
    where: str = "scope",
) -> list[str]:
    """Return the names of the parameters to freeze, in the order of the network.

    Args:
        model: Network. Parameters that require no gradient already are not included.
        scope: Names or patterns. See :func:`imgrec.models.utils.patterns.scope_names`.
        all_but: Names or patterns of parameters to exclude.
        batch_norm: ``trained`` excludes the weights and biases of batch normalization. Defaults to ``frozen``.
        where: Key in the config for messages.

    Raises:
        UserError: If a pattern matches nothing, if nothing is selected, or if all parameters are selected.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Linear(1, 1))
    >>> select_frozen(net, None, all_but="2"), select_frozen(net, ["0", "1"], batch_norm="trained")
    (['0.weight', '0.bias', '1.weight', '1.bias'], ['0.weight', '0.bias'])
    """
    excluded = set(scope_names(model, all_but, f"{where}, all_but")) if all_but is not None else set()
    if batch_norm == "trained":
        norms = _batch_norms(model)
        excluded |= {f"{path}.{name}" for path, norm in norms for name, _ in norm.named_parameters(recurse=False)}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = [name for name in scope_names(model, scope, where) if name in trainable and name not in excluded]
    if not found:
        raise UserError(f"{where}: {describe_scope(scope, all_but)} selects no parameter to freeze.")
    refuse_all_frozen(model, found, f"{where}: {describe_scope(scope, all_but)}")
    return found


def refuse_all_frozen(model: nn.Module, frozen: Collection[str], selection: str) -> None:
    """Raise an error if ``frozen`` contains all trainable parameters of ``model``.

    Args:
        model: Network.
        frozen: Names of the frozen parameters.
        selection: Description of the selection for the message.

    Raises:
        UserError: If no trainable parameter remains.
    """
    if all(name in frozen for name, parameter in model.named_parameters() if parameter.requires_grad):
        raise UserError(
            f"{selection} freezes every parameter. Select a part of the network, such as `backbone`, or exclude "
            "parameters with `all_but`."
        )


def find_frozen_norms(model: nn.Module, frozen: Collection[str]) -> list[nn.Module]:
    """Return the batch normalizations of a frozen part, which use their running statistics and do not update them.

    All weights and biases of such a layer are in ``frozen``. For a layer without parameters, all parameters of its
    parent module are.

    >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    >>> find_frozen_norms(net, {"0.weight", "0.bias", "1.weight", "1.bias"}) == [net[1]]
    True
    """
    names, found = [name for name, _ in model.named_parameters()], []
    for path, norm in _batch_norms(model):
        relevant = [f"{path}.{name}" for name, _ in norm.named_parameters(recurse=False)]
        if not relevant:
            parent = path.rpartition(".")[0]
            relevant = [name for name in names if name.startswith(f"{parent}." if parent else "")]
        if relevant and all(name in frozen for name in relevant):
            found.append(norm)
    return found


def set_frozen(model: nn.Module, trainable: Collection[str], frozen: Collection[str]) -> None:
    """Disable the gradient of exactly the parameters ``frozen`` among ``trainable``.

    An optimizer skips parameters without a gradient. Neither momentum nor weight decay changes them, and their
    optimizer state is kept.
    """
    for name, parameter in model.named_parameters():
        if name in trainable:
            parameter.requires_grad_(name not in frozen)
            if name in frozen:
                parameter.grad = None


def _batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers with running statistics by name."""
    for name, module in model.named_modules():
        if any(key.startswith("running_") and value is not None for key, value in module._buffers.items()):
            yield name, module


def describe_scope(scope: Scope, all_but: Scope) -> str:
    """Return a scope and its exceptions as text for messages."""
    patterns = "everything" if scope is None else scope if isinstance(scope, str) else ", ".join(scope)
    if all_but is None:
        return patterns
    excluded = all_but if isinstance(all_but, str) else ", ".join(all_but)
    return f"{patterns} except {excluded}"
