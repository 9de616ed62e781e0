"""Checks of plain data against annotations, without imports: numbers, text, lists and mappings."""

from __future__ import annotations

import enum
import inspect
import os
import types
import typing
from collections import abc
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml

from imgrec.utils import yaml as plain_yaml
from imgrec.utils.ranges import is_within

_SCALARS: tuple[Any, ...] = (str, int, float, bool, types.NoneType, None, Any, object, inspect.Parameter.empty)
_LISTS = (list, abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence)
_SETS = (set, frozenset, abc.Set)
_MAPPINGS = (dict, abc.Mapping, abc.MutableMapping)
_PATHS = (Path, os.PathLike)


class MismatchError(Exception):
    """Mismatch of a value and an annotation."""


def is_plain(hint: Any) -> bool:
    """Return True if an annotation accepts only plain data: no class, function or instance.

    >>> is_plain(dict[str, float | None]), is_plain(type[int])
    (True, False)
    """
    origin = get_origin(hint)
    if origin is Literal:
        return True
    if origin is Annotated:
        return is_plain(get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return all(map(is_plain, get_args(hint)))
    if origin is None:
        kinds = (*_SCALARS, *_LISTS, *_SETS, *_MAPPINGS, *_PATHS, tuple)
        return any(hint is each for each in kinds) or (isinstance(hint, type) and issubclass(hint, enum.Enum))
    if origin in (*_LISTS, *_SETS, *_MAPPINGS, *_PATHS, tuple):
        return all(each is Ellipsis or each == () or is_plain(each) for each in get_args(hint))
    return False


def can_name_class(value: Any) -> bool:
    """Return True if a library could interpret ``value`` as the name of a class: text, or a container with text."""
    if isinstance(value, Mapping):
        return bool(value)
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(can_name_class, value))
    return isinstance(value, str)


def check_plain(value: Any, hint: Any) -> Any:
    """Convert ``value`` to the type of an annotation, for example an int to a float and a list to a tuple.

    A class in the annotation accepts instances only, not names.

    Raises:
        MismatchError: If the value does not match the annotation or its range.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = check_plain(value, parts[0])
        if not is_within(found, parts[1:]):
            raise MismatchError
        return found
    if origin is Literal:
        return _literal(value, parts)
    if origin in (typing.Union, types.UnionType):
        return _union(value, parts)
    kind = hint if origin is None else origin
    if kind in (Any, object, inspect.Parameter.empty):
        return value
    if kind in (str, int, float, bool, None, types.NoneType):
        return _scalar(value, types.NoneType if kind is None else kind)
    if kind in _LISTS or kind in _SETS or kind is tuple:
        return _sequence(value, kind, parts)
    if kind in _MAPPINGS:
        return _mapping(value, parts)
    if kind in _PATHS:
        return _path(value, kind)
    if isinstance(kind, type) and issubclass(kind, enum.Enum) and isinstance(value, str) and value in kind.__members__:
        return kind[value]
    return _instance(value, kind)


def _parsed(value: Any) -> Any:
    """Parse text as YAML, and return any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return plain_yaml.parse(value)
    except (yaml.YAMLError, ValueError):
        return value


def _scalar(value: Any, kind: type) -> Any:
    found = value if kind is str else _parsed(value)
    if kind is float and isinstance(found, int) and not isinstance(found, bool):
        return float(found)
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise MismatchError
    return found


def _literal(value: Any, accepted: tuple[Any, ...]) -> Any:
    for found in (value, _parsed(value)):
        for each in accepted:
            if type(each) is type(found) and each == found:
                return each
    raise MismatchError


def _union(value: Any, parts: tuple[Any, ...]) -> Any:
    for part in parts:
        if isinstance(part, type) and type(value) is part:
            return check_plain(value, part)
    for part in sorted(parts, key=lambda each: each is not str if isinstance(value, str) else each is str):
        try:
            return check_plain(value, part)
        except MismatchError:
            continue
    raise MismatchError


def _sequence(value: Any, kind: Any, parts: tuple[Any, ...]) -> Any:
    found = _parsed(value)
    if isinstance(found, str) or not isinstance(found, list | tuple | set | frozenset):
        raise MismatchError
    made: Any = tuple if kind is tuple else set if kind in (set, abc.Set) else frozenset if kind is frozenset else list
    if kind is tuple and parts and Ellipsis not in parts:
        hints = () if parts == ((),) else parts
        if len(found) != len(hints):
            raise MismatchError
        return tuple(check_plain(each, hint) for each, hint in zip(found, hints, strict=True))
    inner = parts[0] if parts else Any
    return made(check_plain(each, inner) for each in found)


def _mapping(value: Any, parts: tuple[Any, ...]) -> Any:
    found = _parsed(value)
    if not isinstance(found, Mapping):
        raise MismatchError
    key, inner = parts if parts else (Any, Any)
    return {_key(name, key): check_plain(each, inner) for name, each in found.items()}


def _key(name: Any, hint: Any) -> Any:
    """Return a key of a mapping. A number is converted for a text key, because YAML reads the class ``1`` as one."""
    if hint is str and isinstance(name, int) and not isinstance(name, bool):
        return str(name)
    return check_plain(name, hint)


def _path(value: Any, kind: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        raise MismatchError
    return Path(value) if kind is Path else value


def _instance(value: Any, kind: Any) -> Any:
    if can_name_class(value) or not (isinstance(kind, type) and isinstance(value, kind)):
        raise MismatchError
    return value
