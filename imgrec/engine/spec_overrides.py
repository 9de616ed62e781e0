"""The arguments that a spec keeps if its name changes, and one line for each that it does not keep."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imgrec.errors import UserError
from imgrec.utils.signals import is_first_process
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.registry import Registry

Config = dict[str, Any]


def carried(path: Sequence[str], config: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> Config:
    """Return the arguments of the spec ``old`` that the spec ``new`` with another name keeps.

    An argument is kept if the new entry has an argument of the same name and accepts the value. It is not kept if the
    registry declares the name as specific to an entry (:class:`imgrec.registry.Registry`). Arguments that the
    catalogue of a network checks are kept if it accepts them. A line on stderr names the kept arguments, and one line
    names each dropped argument.

    Args:
        path: Keys of the spec in the config, for example ``("model", "init_args", "optimizer")``.
        config: Config that is overridden.
        old: Spec in the config.
        new: Spec that replaces it.
    """
    registry = registry_at(path, config)
    name = new.get("name")
    given = {key: value for key, value in old.items() if key not in ("name", *new)}
    where = ".".join(part for part in path if part != "init_args")
    before = old.get("name", "the default")
    if registry is None or not isinstance(name, str):
        for key, value in given.items():
            _print(f"{where}.{key}: {value!r} is dropped with {before}: its meaning for {name} is unknown")
        return {}
    kept: Config = {}
    try:
        entry = registry.entry(name, where)
    except UserError:  # the check of the whole spec refuses the name, with the nearest one
        return given
    for key, value in given.items():
        why = _refused(registry, name, key, value)
        if why is None:
            kept[key] = value
        elif not (_is_default(registry, before, key, value) and (key not in entry.parameters or value is None)):
            _print(f"{where}.{key}: {value!r} is dropped with {before}: {why}")
    listed = {key: value for key, value in kept.items() if not _equals_default(entry.parameters.get(key), value)}
    if listed:
        _print(f"{where}: {name} keeps {', '.join(f'{key} {value!r}' for key, value in listed.items())}")
    return kept


def registry_at(path: Sequence[str], config: Mapping[str, Any]) -> Registry[Any] | None:
    """Return the registry of the spec at a path, also inside other specs, or ``None`` if it has no registry."""
    from imgrec.registry import nested_registry
    from imgrec.runs.config import registry_of

    if len(path) < 3 or path[1] != "init_args":
        return None
    registry = registry_of(path[0], path[2])
    for around, key in _around(path, config):
        name = around.get("name") if isinstance(around, Mapping) else around
        if registry is None or not isinstance(name, str) or name not in registry:
            return None
        registry = nested_registry(registry.entry(name).hints.get(key))
    return registry


def _around(path: Sequence[str], config: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield each spec that contains the spec at ``path``, with the name of the argument that contains it."""
    here: Any = config
    for i, key in enumerate(path):
        if i > 2:
            yield here, key
        here = here.get(key) if isinstance(here, Mapping) else None


def _refused(registry: Registry[Any], name: str, key: str, value: Any) -> str | None:
    """Return the reason for which the entry ``name`` does not keep an argument, ``None`` if it keeps it."""
    from imgrec.registry import nested_registry
    from imgrec.spec_defaults import FACTS
    from imgrec.utils.signature import check_type

    entry = registry.entry(name)
    if key in registry.specific:
        return f"its meaning depends on the {registry.kind}"
    try:
        if key in entry.parameters:
            if nested_registry(entry.hints[key]) is None and not (value is None and _accepts_none(entry, key)):
                check_type(value, entry.hints[key], key)
        elif entry.open:
            registry.check({"name": name, key: value}, "", FACTS)
        else:
            return f"{name} has no such argument"
    except UserError as error:
        return f"{name} does not accept it ({error})"
    return None


def _accepts_none(entry: Any, key: str) -> bool:
    return entry.parameters[key].default is None


def _is_default(registry: Registry[Any], name: Any, key: str, value: Any) -> bool:
    """Return True if a resolved config wrote the value only because it is the default of the old entry."""
    known = isinstance(name, str) and name in registry
    return known and _equals_default(registry.entry(name).parameters.get(key), value)


def _equals_default(parameter: Any, value: Any) -> bool:
    default = None if parameter is None else parameter.default
    same = list(default) if isinstance(default, tuple) else default
    return parameter is not None and type(same) is type(value) and bool(same == value)


def _print(text: str) -> None:
    if is_first_process():
        print(text, file=sys.stderr, flush=True)
