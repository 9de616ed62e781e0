"""Spec and Registry: plain data that names a part, and the one mechanism that turns it into an object.

A spec is a name, ``focal``, or a name with arguments, ``{name: focal, gamma: 2.0}``. The name is a registered one, one
that a registry's catalogue knows (timm's models, say), one that another package offers as an entry point, or a dotted
path to any importable class. YAML, hyper-parameters in a checkpoint and Python calls all hold the same plain data.
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
"""A name, or a mapping with the key ``name`` and arguments beside it."""

Specs = str | dict[str, Any] | list[str | dict[str, Any]]
"""One spec, or a list of them."""

T = TypeVar("T")


class Catalogue(Protocol):
    """Names that a library brings: thousands of entries that nobody wants to register one by one."""

    def names(self) -> Collection[str]:
        """Every name that :meth:`find` knows."""

    def find(self, name: str) -> Callable[..., Any] | None:
        """What builds ``name``; ``None`` where the catalogue does not know it."""


class Registry(Generic[T]):
    """Turns specs into objects.

    Args:
        kind: what an entry is, in the singular, for messages: ``"loss"``.
        plural: the name of the registry on the command line and in entry points: ``"losses"``.
        catalogue: names that a library brings.
        specific: names of arguments whose meaning depends on the entry, such as ``alpha`` of losses. If an override
            changes the name of a spec, these are not kept for the new entry.

    >>> from imgrec.losses import LOSSES
    >>> LOSSES.build({"name": "focal", "gamma": 1.5}).gamma
    1.5
    """

    def __init__(
        self, kind: str, plural: str, catalogue: Catalogue | None = None, specific: Collection[str] = ()
    ) -> None:
        self.kind = kind
        self.plural = plural
        self.catalogue = catalogue
        self.specific = frozenset(specific)
        self._entries: dict[str, Entry[T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., Any]], Any]:
        """A class decorator that adds an entry. A name that is taken raises ``ValueError``."""

        def add(factory: Callable[..., T]) -> Callable[..., T]:
            if name in self._entries:
                taken = self._entries[name].factory
                raise ValueError(f'{self.kind} "{name}" is registered already, by {_path(taken)}')
            self._entries[name] = Entry(name, factory)
            return factory

        return add

    def names(self) -> list[str]:
        """The registered names and those of entry points, sorted; a catalogue's names are not among them."""
        return sorted({*self._entries, *self._plugins()})

    def __contains__(self, name: str) -> bool:
        return name in self._entries or name in self._plugins() or bool(self.catalogue and self.catalogue.find(name))

    def __iter__(self) -> Iterator[Entry[T]]:
        return (self.entry(name) for name in self.names())

    def entry(self, name: str, where: str = "") -> Entry[T]:
        """The entry that ``name`` stands for. An unknown name raises :class:`SpecError` with the nearest ones."""
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
        """Raise what :meth:`build` would raise for this spec, without building anything.

        Args:
            spec: a name, or a mapping with ``name`` and arguments.
            where: the place in the config, for the message: ``"model.loss"``.
            facts: the names of the facts that will be there when it is built.
        """
        name, given = self.parse(spec, where)
        entry = self.entry(name, where)
        self._arguments(entry, given, where, facts, build=False)
        check = getattr(entry.factory, "check_arguments", None)
        if check is not None:
            with _placed(where):
                check(**given)

    def build(self, spec: Spec, where: str = "", /, **facts: Any) -> T:
        """The object that ``spec`` names.

        Args:
            spec: a name, or a mapping with ``name`` and arguments.
            where: the place in the config, for messages.
            **facts: what the caller knows (``num_classes``, ...); passed only to a constructor that names them, and
                only where the spec does not say otherwise.

        Raises:
            SpecError: an unknown name or argument, a missing or wrongly typed argument, a value that is refused.
        """
        name, given = self.parse(spec, where)
        entry = self.entry(name, where)
        arguments = self._arguments(entry, given, where, facts, build=True, values=facts)
        with _placed(where):
            return entry.factory(**arguments)

    def parse(self, spec: Spec, where: str = "") -> tuple[str, dict[str, Any]]:
        """A spec's name and its arguments."""
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
        if value is None and entry.parameters[key].default is None:  # whatever the annotation forgot to say
            return None
        return check_type(value, hint, where)

    def nested(self, value: Any, where: str, facts: Collection[str], build: bool) -> Any:
        """Check, and on request build, the spec or the list of specs that stands as an argument of another spec."""
        if isinstance(value, list):
            return [self.nested(v, f"{where}[{i}]", facts, build) for i, v in enumerate(value)]
        if not isinstance(value, str | Mapping):
            return value  # Python callers may hand over what is built already
        if not build:
            self.check(typing.cast(Spec, value), where, facts)
            return value
        return self.build(typing.cast(Spec, value), where, **(facts if isinstance(facts, Mapping) else {}))

    def _plugins(self) -> dict[str, Any]:
        found = {point.name: point for point in _points(entry_points, f"imgrec.{self.plural}")}
        for name in found.keys() & self._entries.keys():
            raise ValueError(
                f'{self.kind} "{name}" is registered already; the entry point {found[name].value} takes it'
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
    """One spec, several or none, as a list."""
    if specs is None:
        return []
    return [specs] if isinstance(specs, str | Mapping) else list(specs)


def nested_registry(hint: Any) -> Registry[Any] | None:
    """Return the registry whose specs an annotation accepts, ``None`` if it accepts none."""
    if get_origin(hint) is Annotated:
        return next((extra for extra in get_args(hint)[1:] if isinstance(extra, Registry)), None)
    return next((found for part in get_args(hint) if (found := nested_registry(part)) is not None), None)


@cache
def _points(find: Callable[..., Any], group: str) -> tuple[Any, ...]:
    """The entry points of a group; a search through all that is installed takes milliseconds, so it is made once."""
    return tuple(find(group=group))


def _path(factory: Callable[..., Any]) -> str:
    return f"{getattr(factory, '__module__', None)}.{getattr(factory, '__qualname__', factory)}"


class _placed:  # noqa: N801 - used as a context manager, like contextlib's own
    """Gives the refusals of a constructor the place in the config that caused them."""

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
