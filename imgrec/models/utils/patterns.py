"""Which parameters a pattern means: the scope of a regularizer, a learning rate, an initialization, a freezing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.utils.layers import SHORT, listed

Scope = str | list[str] | None
"""A pattern, several of them, or ``None`` for everything."""


def in_scope(name: str, scope: Scope) -> bool:
    """Whether a pattern of ``scope`` means the parameter or module ``name``, or a module that holds it.

    >>> [in_scope("backbone.network.layer1.0.conv1.weight", s) for s in ("layer1", "*.weight", "backbone", "layer2.*")]
    [True, True, True, False]
    """
    if scope is None:
        return True
    return any(fnmatchcase(said, pattern) for pattern in _patterns(scope) for said in _ways_to_say(name))


def scope_names(model: nn.Module, scope: Scope, where: str = "scope") -> list[str]:
    """The full names of the parameters of ``model`` that ``scope`` means, in the order of the network.

    Args:
        model: any network.
        scope: names of parameters or of modules that hold them, with or without ``backbone.network.`` before them, or
            patterns: ``*``, ``?`` and ``[12]`` stand for what they stand for in file names. ``None`` means all.
        where: the place in the config, for the message.

    Raises:
        UserError: a pattern means nothing; it lists names.

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
                f"The network's modules: {listed(modules)}."
            )
    return [name for name in names if in_scope(name, scope)]


def _patterns(scope: str | Sequence[str]) -> list[str]:
    return [scope] if isinstance(scope, str) else list(scope)


def _ways_to_say(name: str) -> Iterator[str]:
    """The name and the modules around it, each with and without what a pattern may leave out."""
    words = name.split(".")
    for end in range(len(words), 0, -1):
        said = ".".join(words[:end])
        yield said
        if said.startswith(SHORT):
            yield said.removeprefix(SHORT)
