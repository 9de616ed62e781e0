"""Spec and Registry: plain data that names a component, and the mechanism that builds the component from it.

A spec is a name, ``focal``, or a name with arguments, ``{name: focal, gamma: 2.0}``. The name is
registered, or in the catalogue of the registry (such as a timm model), or of an entry point, or a dotted path.
YAML, hyper-parameters in a checkpoint and Python calls contain the same plain data.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Generic, Protocol, TypeVar, get_args, get_origin

from imgrec import trust
from imgrec.errors import SpecError, UserError, article, suggestion
from imgrec.utils.signature import Entry, check_text_keys, check_type, place

Spec = str | dict[str, Any]
"""A name, or a mapping with the key ``name`` and arguments."""

Specs = str | dict[str, Any] | list[str | dict[str, Any]]
"""One spec, or a list of specs."""

T = TypeVar("T")


class Catalogue(Protocol):
    """Names of a library that are not registered one by one, for example the models of timm."""

    def names(self) -> Collection[str]:
        """Return every name that :meth:`find` accepts."""

    def find(self, name: str) -> Callable[..., Any] | None:
        """Return the constructor of ``name``, or ``None`` if the catalogue does not contain it."""


class Registry(Generic[T]):
    """Registry of named constructors that builds objects from specs.

    Args:
        kind: Singular noun for an entry in messages, for example ``"loss"``.
        plural: Name of the registry on the command line and in entry points, for example ``"losses"``.
        catalogue: Names of a library. Defaults to no catalogue.
        specific: Arguments whose meaning depends on the entry, such as ``alpha`` of losses. They are dropped if an
            override changes the name of a spec.

    >>> from imgrec.losses import LOSSES
    >>> LOSSES.build({"name": "focal", "gamma": 1.5}).gamma
    1.5
    """

    inputs: Collection[str] = ()
    """Parameters of the entries that receive data and not an argument of a spec."""

    def __init__(
        self, kind: str, plural: str, catalogue: Catalogue | None = None, specific: Collection[str] = ()
    ) -> None:
        self.kind = kind
        self.plural = plural
        self.catalogue = catalogue
        self.specific = frozenset(specific)
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., Any]], Any]:
        """Return a class decorator that adds an entry.

        Raises:
            ValueError: If the name is registered already.
        """

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._entries:
                taken = self._entries[name].factory
                raise ValueError(f'{self.kind} "{name}" is registered already, by {_path(taken)}')
            self._entries[name] = Entry(name, factory)
            return factory

        return add

    def names(self) -> list[str]:
        """Return the registered names and those of entry points, sorted, without the names of the catalogue."""
        return sorted({*self._entries, *self._plugins()})

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._plugins() or bool(self.catalogue and self.catalogue.find(name))

    def __iter__(self) -> Iterator[Entry[T]]:
        return (self.entry(name) for name in self.names())

    def entry(self, name: str, where: str = "") -> Entry[T]:
        """Return the entry of a name.

        Raises:
            SpecError: If the name is unknown. The message suggests similar names.
        """
        if name in self._entries:
            return self._entries[name]
        if (plugin := self._plugins().get(name)) is not None:
            return Entry(name, plugin.load())
        found = self.catalogue.find(name) if self.catalogue else None
        if found is not None:
            return Entry(name, found)
        if "." in name:
            return Entry(name, self._import(name, where))
        known = [*self.names(), *(self.catalogue.names() if self.catalogue else ())]
        listed = f"one of {', '.join(self.names())}" if not self.catalogue else f"see `imgrec list {self.plural}`"
        raise SpecError(
            f'{place(where)}no {self.kind} is called "{name}".{suggestion(name, known)} '
            f"Accepted: {listed}, or a dotted path to a class."
        )

    def check(self, spec: Spec, where: str = "", facts: Collection[str] = ()) -> None:
        """Raise the error that :meth:`build` would raise for this spec, without building the object.

        Args:
            spec: Name, or mapping with ``name`` and arguments.
            where: Key in the config for the message, for example ``"model.loss"``.
            facts: Names of the facts that :meth:`build` will receive.

        Raises:
            SpecError: If the spec is invalid.
        """
        name, given = self.parse(spec, where)
        entry = self.entry(name, where)
        self._arguments(entry, given, where, facts, build=False)
        check = getattr(entry.factory, "check_arguments", None)
        if check is not None:
            with _placed(where):
                check(**given)

    def build(self, spec: Spec, where: str = "", /, **facts: Any) -> T:
        """Build the object that a spec names.

        Args:
            spec: Name, or mapping with ``name`` and arguments.
            where: Key in the config for messages.
            **facts: Values such as ``num_classes``. A fact is passed only to a constructor with a parameter of that
                name, and only if the spec does not set it.

        Raises:
            SpecError: If the name or an argument is unknown, or an argument is missing, of the wrong type or out of
                range.
        """
        name, given = self.parse(spec, where)
        entry = self.entry(name, where)
        arguments = self._arguments(entry, given, where, facts, build=True, values=facts)
        with _placed(where):
            return entry.factory(**arguments)

    def properties_of(self, name: str) -> dict[str, str]:
        """Return properties of an entry in addition to its arguments, in words, for ``imgrec show``."""
        return {}

    def parse(self, spec: Spec, where: str = "") -> tuple[str, dict[str, Any]]:
        """Return the name and the arguments of a spec."""
        if isinstance(spec, str) and spec:
            return spec, {}
        if isinstance(spec, Mapping) and isinstance(spec.get("name"), str):
            check_text_keys(spec, where)
            return spec["name"], {k: v for k, v in spec.items() if k != "name"}
        raise SpecError(
            f"{place(where)}expected the name of {article(self.kind)}, or a mapping with the key `name`, got {spec!r}."
        )

    def _arguments(
        self,
        entry: Entry[T],
        given: Mapping[str, Any],
        where: str,
        facts: Collection[str],
        *,
        build: bool,
        values: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        title = f'{place(where)}the {self.kind} "{entry.name}"'
        for key in given:
            if key not in entry.parameters and not entry.open:
                accepted = ", ".join(entry.parameters) or "no argument"
                raise SpecError(
                    f'{title} has no argument "{key}".{suggestion(key, entry.parameters)} Accepted: {accepted}.'
                )
        arguments: dict[str, Any] = {}
        for key, parameter in entry.parameters.items():
            if key in given:
                arguments[key] = self._argument(
                    entry, key, given[key], f"{where}.{key}" if where else key, facts, build
                )
            elif key in facts:
                if values is not None:
                    arguments[key] = values[key]
            elif parameter.default is parameter.empty:
                raise SpecError(f'{title} needs the argument "{key}".')
        return arguments | {k: v for k, v in given.items() if k not in entry.parameters}

    def _argument(self, entry: Entry[T], key: str, value: Any, where: str, facts: Collection[str], build: bool) -> Any:
        hint = entry.hints[key]
        nested = nested_registry(hint)
        if nested is not None:
            return nested.nested(value, where, facts, build)
        if value is None and entry.parameters[key].default is None:  # the annotation may lack "| None"
            return None
        return check_type(value, hint, where)

    def nested(self, value: Any, where: str, facts: Collection[str], build: bool) -> Any:
        """Check, or build if ``build`` is set, the spec or list of specs in an argument of another spec."""
        if isinstance(value, list):
            return [self.nested(v, f"{where}[{i}]", facts, build) for i, v in enumerate(value)]
        if not isinstance(value, str | Mapping):
            return value  # an object that was built in Python
        if not build:
            self.check(typing.cast(Spec, value), where, facts)
            return value
        return self.build(typing.cast(Spec, value), where, **(facts if isinstance(facts, Mapping) else {}))

    def _plugins(self) -> dict[str, Any]:
        found = {point.name: point for point in _points(entry_points, f"imgrec.{self.plural}")}
        for name in found.keys() & self._entries.keys():
            raise ValueError(
                f'{self.kind} "{name}" is registered already. The entry point {found[name].value} has the same name.'
            )
        return found

    def _import(self, path: str, where: str) -> Callable[..., T]:
        for entry in self._entries.values():  # received data may use the full name of a registered class
            if _path(entry.factory) == path:
                return entry.factory
        try:
            found = trust.import_named(path, where, self.kind)
        except (ImportError, AttributeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            known = [*self.names(), *(self.catalogue.names() if self.catalogue else ())]
            raise SpecError(
                f'{place(where)}the {self.kind} "{path}" cannot be imported: {error}.{suggestion(path, known)}'
            ) from error
        if not callable(found):
            raise SpecError(f'{place(where)}"{path}" is a {type(found).__name__}, not a class or function.')
        return typing.cast(Callable[..., T], found)


def as_list(specs: Specs | Sequence[Spec] | None) -> list[Spec]:
    """Return no spec, one spec or several specs as a list."""
    if specs is None:
        return []
    return [specs] if isinstance(specs, str | Mapping) else list(specs)


def nested_registry(hint: Any) -> Registry[Any] | None:
    """Return the registry whose specs an annotation accepts, or ``None``."""
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Registry)), None)
    return next((found for part in get_args(hint) if (found := nested_registry(part)) is not None), None)


@cache
def _points(find: Callable[..., Any], group: str) -> tuple[Any, ...]:
    """Return the entry points of a group, cached because the search takes milliseconds."""
    return tuple(find(group=group))


def _path(factory: Callable[..., Any]) -> str:
    return f"{getattr(factory, '__module__', None)}.{getattr(factory, '__qualname__', factory)}"


class _placed:  # noqa: N801 - used as a context manager, like contextlib's own
    """Context manager that prepends the key of the config to the errors of a constructor."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, SpecError) or error is None:
            return
        if isinstance(error, UserError | ValueError) or (
            isinstance(error, TypeError) and "unexpected keyword argument" in str(error)
        ):
            raise SpecError(f"{place(self.where)}{error}") from error
