"""Inspection of constructors: arguments, types and documentation."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin

from imgrec import trust
from imgrec.errors import SpecError
from imgrec.utils.plain_types import MismatchError, can_name_class, check_plain, is_plain
from imgrec.utils.ranges import describe_type, is_in_range, without_ranges

T = TypeVar("T")

_REFERENCE = re.compile(r"^\s*(?:Source|Reference)s?:\s*(.+?)(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Argument:
    """Argument of a registry entry, as ``imgrec show`` prints it."""

    name: str
    type: str
    default: str
    required: bool


class Entry(Generic[T]):
    """Named constructor with its parameters, annotations and documentation."""

    def __init__(self, name: str, factory: Callable[..., T]) -> None:
        self.name = name
        self.factory = factory

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Parameters by name, including those of the base classes that receive ``**kwargs``."""
        found: dict[str, inspect.Parameter] = {}
        taken: set[str] = set()  # arguments that the class sets for its base class
        for i, signature in enumerate(self._signatures):
            taken |= _given_to_base(self._constructors[i - 1], signature) if i else set()
            found = found | {n: p for n, p in signature.parameters.items() if n not in found and n not in taken}
        return {n: p for n, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    @cached_property
    def open(self) -> bool:
        """True if the constructor accepts any other keyword (``**kwargs``)."""
        return any(p.kind is p.VAR_KEYWORD for p in self._signatures[-1].parameters.values())

    @cached_property
    def hints(self) -> dict[str, Any]:
        """Resolved annotations of the parameters."""
        hints: dict[str, Any] = {}
        for constructor in self._constructors:
            try:
                hints = typing.get_type_hints(constructor, include_extras=True) | hints
            except (NameError, TypeError):  # annotations for type checkers only
                continue
        given = {n: p.annotation for n, p in self.parameters.items() if not isinstance(p.annotation, str)}
        return {n: hints.get(n, given.get(n, inspect.Parameter.empty)) for n in self.parameters}

    @cached_property
    def _constructors(self) -> list[Callable[..., Any]]:
        """The factory, or the ``__init__`` of a class followed by those of its bases that receive ``**kwargs``."""
        if not inspect.isclass(self.factory):
            return [self.factory]
        found: list[Callable[..., Any]] = []
        for base in self.factory.__mro__:
            if "__init__" in vars(base) and base is not object:
                found.append(vars(base)["__init__"])
                if not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(found[-1]).parameters.values()):
                    break
        return found

    @cached_property
    def _signatures(self) -> list[inspect.Signature]:
        if not inspect.isclass(self.factory) or len(self._constructors) < 2:
            return [inspect.signature(self.factory)]
        signatures = [inspect.signature(constructor) for constructor in self._constructors]
        return [s.replace(parameters=list(s.parameters.values())[1:]) for s in signatures]  # without self

    @property
    def doc(self) -> str:
        """Docstring without indentation."""
        return inspect.getdoc(self.factory) or ""

    @property
    def summary(self) -> str:
        """First line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def reference(self) -> str:
        """``Source:`` paragraph of the docstring on one line, or an empty string."""
        found = _REFERENCE.search(self.doc)
        return " ".join(found.group(1).split()) if found else ""

    def arguments(self) -> list[Argument]:
        """Return the arguments that a spec can set, in order."""
        empty = inspect.Parameter.empty
        return [
            Argument(
                name=n,
                type="" if self.hints[n] is empty else type_name(self.hints[n]),
                default="" if p.default is empty else repr(p.default),
                required=p.default is empty,
            )
            for n, p in self.parameters.items()
        ]


def _given_to_base(constructor: Callable[..., Any], base: inspect.Signature) -> set[str]:
    """Return the arguments of ``base`` that a constructor sets in ``super().__init__(...)``."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(constructor)))
    except (OSError, TypeError, SyntaxError):  # written in C, or defined at a prompt
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"super\(.*\)\.__init__", ast.unparse(node.func)):
            places = [n for n, p in base.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
            given = list(takewhile(lambda argument: not isinstance(argument, ast.Starred), node.args))
            found |= {k.arg for k in node.keywords if k.arg} | set(places[: len(given)])
    return found


def check_type(value: Any, hint: Any, where: str) -> Any:
    """Convert ``value`` to the type of an annotation, for example an int to a float.

    jsonargparse checks annotations that accept more than plain data, for example classes. It imports the names in
    texts and is therefore not used on received data.

    Raises:
        SpecError: If the value does not match the annotation or its range.
    """
    if hint is inspect.Parameter.empty or hint is Any:
        return value
    opened = trust.current()
    if is_plain(hint) or (opened is not None and not opened.everything and can_name_class(value)):
        try:
            return check_plain(value, hint)
        except MismatchError as error:
            raise _unfit(value, hint, where) from error
    return _check_with_imports(value, hint, where)


def _unfit(value: Any, hint: Any, where: str) -> SpecError:
    kind = "" if value is None else f" ({type(value).__name__})"
    return SpecError(f"{place(where)}expected {type_name(hint)}, got {value!r}{kind}.")


def _check_with_imports(value: Any, hint: Any, where: str) -> Any:
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, add_help=False)
    try:
        parser.add_argument("--value", type=without_ranges(hint))
    except ValueError:  # not plain data, for example a tensor. The constructor checks the value.
        return value
    if (value is None and not _takes_none(hint)) or (isinstance(value, bool) and not _takes_bool(hint)):
        raise _unfit(value, hint, where)  # jsonargparse reads null as absent, and true as 1
    try:
        found = parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise _unfit(value, hint, where) from error
    if not is_in_range(found, hint):
        raise _unfit(value, hint, where)
    return found


def check_text_keys(arguments: Mapping[Any, Any], where: str) -> None:
    """Raise an error if the name of an argument is not text, as in ``{name: sgd, 1: 0.9}``.

    Raises:
        SpecError: If a key is not text.
    """
    for key in arguments:
        if not isinstance(key, str):
            raise SpecError(f"{place(where)}expected text as a key, got {key!r} ({type(key).__name__}).")


def _takes_bool(hint: Any) -> bool:
    parts = get_args(hint) if get_origin(hint) is not typing.Literal else ()
    return hint in (bool, Any, object) or any(_takes_bool(part) for part in parts) or get_origin(hint) is typing.Literal


def _takes_none(hint: Any) -> bool:
    if get_origin(hint) in (typing.Union, types.UnionType, typing.Literal, Annotated):
        return any(_takes_none(part) for part in get_args(hint))
    return hint in (None, type(None), Any, object) or isinstance(hint, TypeVar | typing.ForwardRef)


def type_name(hint: Any) -> str:
    """Return an annotation as text, with its range and without the names of modules."""
    return re.sub(r"\b(?:typing|collections\.abc|builtins|pathlib)\.", "", describe_type(hint)).replace(
        "NoneType", "None"
    )


def place(where: str) -> str:
    """Return the key of the config as the prefix of a message, or an empty string."""
    return f"{where}: " if where else ""
