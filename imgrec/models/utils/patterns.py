"""Selection of parameters by names and patterns, for example of a regularizer, a learning rate or a frozen part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.layers import SHORT, listed

Scope = str | list[str] | None
"""A name or pattern, several of them, or ``None`` for the whole network."""


def in_scope(name: str, scope: Scope) -> bool:
    """Return True if a pattern of ``scope`` matches the parameter or module ``name``, or a module that contains it.

    >>> [in_scope("backbone.network.layer1.0.conv1.weight", s) for s in ("layer1", "*.weight", "backbone", "layer2.*")]
    [True, True, True, False]
    """
    if scope is None:
        return True
    return any(fnmatchcase(variant, pattern) for pattern in _patterns(scope) for variant in _name_variants(name))


def scope_names(model: nn.Module, scope: Scope, where: str = "scope") -> list[str]:
    """Return the full names of the parameters of ``model`` that match ``scope``, in the order of the network.

    Args:
        model: Network.
        scope: Names of parameters or of modules that contain them, or patterns with ``*``, ``?`` and ``[12]`` as in
            file names. The prefix ``backbone.network.`` is optional. ``None`` selects all parameters.
        where: Key in the config for messages.

    Raises:
        UserError: If a pattern matches no parameter. The message contains names of modules.

    >>> scope_names(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)), ["0", "*.bias"])
    ['0.weight', '0.bias', '2.bias']
    """
    names = [name for name, _ in model.named_parameters()]
    if scope is None:
        return names
    for pattern in _patterns(scope):
        if not any(in_scope(name, pattern) for name in names):
            modules = [name.removeprefix(SHORT) for name, _ in model.named_modules() if name]
            known = [*modules, *(name.removeprefix(SHORT) for name in names)]
            raise UserError(
                f'{where}: the pattern "{pattern}" matches no parameter.{suggestion(pattern, known)} '
                f"The network has the modules {listed(modules)}."
            )
    return [name for name in names if in_scope(name, scope)]


def _patterns(scope: str | Sequence[str]) -> list[str]:
    return [scope] if isinstance(scope, str) else list(scope)


def _name_variants(name: str) -> Iterator[str]:
    """Yield the name and the names of its parents, each with and without the optional prefix."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        parent = ".".join(words[:end])
        yield parent
        if parent.startswith(SHORT):
            yield parent.removeprefix(SHORT)
