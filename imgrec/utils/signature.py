"""What can be said of a constructor without calling it: its arguments, their types, its documentation."""

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
from imgrec.utils.plain_types import MismatchError, check_plain, is_plain, names_code
from imgrec.utils.ranges import describe_type, in_range, without_ranges

T = TypeVar("T")

_REFERENCE = re.compile(r"^\s*(?:Source|Reference)s?:\s*(.+?)(?:\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Argument:
    """One argument of a registry entry, as ``imgrec show`` prints it."""

    name: str
    type: str
    default: str
    required: bool


class Entry(Generic[T]):
    """A named constructor, and what can be said of it without calling it."""

    def __init__(self, name: str, factory: Callable[..., T]) -> None:
        self.name = name
        self.factory = factory

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The constructor's parameters by name, with those of the base classes that its ``**kwargs`` go to."""
        found: dict[str, inspect.Parameter] = {}
        taken: set[str] = set()  # what a class itself gives to its base, nobody else can give
        for i, signature in enumerate(self._signatures):
            taken |= _given_to_base(self._constructors[i - 1], signature) if i else set()
            found = found | {n: p for n, p in signature.parameters.items() if n not in found and n not in taken}
        return {n: p for n, p in found.items() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}

    @cached_property
    def open(self) -> bool:
        """Whether the constructor takes any further keyword (``**kwargs``)."""
        return any(p.kind is p.VAR_KEYWORD for p in self._signatures[-1].parameters.values())

    @cached_property
    def hints(self) -> dict[str, Any]:
        """The parameters' annotations, resolved."""
        hints: dict[str, Any] = {}
        for constructor in self._constructors:
            try:
                hints = typing.get_type_hints(constructor, include_extras=True) | hints
            except (NameError, TypeError):  # annotations that exist for a type checker only
                continue
        given = {n: p.annotation for n, p in self.parameters.items() if not isinstance(p.annotation, str)}
        return {n: hints.get(n, given.get(n, inspect.Parameter.empty)) for n in self.parameters}

    @cached_property
    def _constructors(self) -> list[Callable[..., Any]]:
        """The factory, or a class's own ``__init__`` and, as long as it takes ``**kwargs``, those of its bases."""
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
        """The whole docstring, indentation removed."""
        return inspect.getdoc(self.factory) or ""

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        return self.doc.partition("\n")[0]

    @property
    def reference(self) -> str:
        """The docstring's ``Source:`` paragraph on one line, or an empty string."""
        found = _REFERENCE.search(self.doc)
        return " ".join(found.group(1).split()) if found else ""

    def arguments(self) -> list[Argument]:
        """The arguments that a spec may give, in order."""
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
    """The arguments of ``base`` that stand in the ``super().__init__(...)`` of a constructor."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(constructor)))
    except (OSError, TypeError, SyntaxError):  # written in C, or typed in at a prompt
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.fullmatch(r"super\(.*\)\.__init__", ast.unparse(node.func)):
            places = [n for n, p in base.parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
            given = list(takewhile(lambda argument: not isinstance(argument, ast.Starred), node.args))
            found |= {k.arg for k in node.keywords if k.arg} | set(places[: len(given)])
    return found


def check_type(value: Any, hint: Any, where: str) -> Any:
    """Return ``value`` in the type of the annotation ``hint``; an int for a float becomes a float.

    jsonargparse checks annotations that accept more than plain data, for example classes. It imports what a text
    names, and is therefore not used on received data.

    Raises:
        SpecError: If the value does not fit.
    """
    if hint is inspect.Parameter.empty or hint is Any:
        return value
    opened = trust.current()
    if is_plain(hint) or (opened is not None and not opened.everything and names_code(value)):
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
    except ValueError:  # the annotation has no plain data, for example a tensor: the constructor checks the value
        return value
    if (value is None and not _takes_none(hint)) or (isinstance(value, bool) and not _takes_bool(hint)):
        raise _unfit(value, hint, where)  # jsonargparse takes null for "not given", and true for 1
    try:
        found = parser.parse_object({"value": value}).value
    except ArgumentError as error:
        raise _unfit(value, hint, where) from error
    if not in_range(found, hint):
        raise _unfit(value, hint, where)
    return found


def check_text_keys(given: Mapping[Any, Any], where: str) -> None:
    """Raise a :class:`SpecError` if an argument's name is not text, as in ``{name: sgd, 1: 0.9}``."""
    for key in given:
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
    """The place in the config, as a message begins with it; nothing where none is known."""
    return f"{where}: " if where else ""
