"""Trust: the one rule that decides which names in data become imported objects.

**Opening** means reading what another process wrote: a model folder, a checkpoint, a run folder, an export. While
:func:`opening` is active, a name in data resolves to a registered entry only. Everything else is refused before a
module is imported. **Training** from the user's own config is not an opening: there a dotted path names any class.

This is the only module of imgrec that imports a module whose name comes from data. SECURITY.md states the guarantees.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

from imgrec.errors import SpecError, UserError

R = TypeVar("R")

Trust = bool | str | Collection[str] | None
"""``True`` allows every name; a name or a collection of names allows these classes and modules."""

OPTION = "--trust"
_VARIABLE = "IMGREC_OPENING"
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


class UntrustedError(SpecError):
    """Received data names a class that is not registered and not trusted."""


@dataclass(frozen=True, eq=False)
class Scope:
    """The permissions of an opening.

    Args:
        origin: the opened path, for messages.
        everything: True if every name is allowed.
        modules: classes and modules that are allowed together with everything below them.
        exact: names that are allowed themselves.
    """

    origin: str
    everything: bool = False
    modules: frozenset[str] = frozenset()
    exact: set[str] = field(default_factory=set)

    def allows(self, name: str) -> bool:
        """Return True if the dotted path ``name`` may be imported in this opening."""
        if self.everything or name in self.exact or name in _declared:
            return True
        return any(name == each or name.startswith(f"{each}.") for each in (*self.modules, *trusted_modules()))


def _inherited() -> list[Scope]:
    """Return the opening that the parent process had when it started this one."""
    text = os.environ.get(_VARIABLE)
    if text is None:
        return []
    try:
        found = json.loads(text)
        return [Scope(found["origin"], found["everything"] is True, frozenset(found["names"]))]
    except (ValueError, TypeError, KeyError):
        return [Scope("the parent process")]


_scope: ContextVar[Scope | None] = ContextVar("imgrec_opening", default=None)
_active: list[Scope] = _inherited()
"""Openings of all threads: a thread without an opening of its own is bound by the newest of them."""
_declared: set[str] = set()
"""Dotted paths that the user's own config has named in this process."""
_lock = threading.RLock()
_granted = Scope("")


def current() -> Scope | None:
    """Return the opening that binds this thread; ``None`` while the user's own config is read."""
    found = _scope.get()
    return found if found is not None else _active[-1] if _active else None


@contextmanager
def opening(origin: str | os.PathLike[str], trust: Trust = None) -> Iterator[Scope]:
    """Resolve registered names only, for the duration of the ``with`` block.

    Openings nest: an inner one also allows what the outer one allows. Child processes inherit the opening.

    Args:
        origin: the opened path, for messages.
        trust: names to allow in addition; ``True`` allows every name. Default: none.

    >>> with opening("received"):
    ...     current().allows("os.system")
    False
    """
    around = current()
    outer = around or _granted
    given = _names(trust) | outer.modules
    exact = set() if around is None else around.exact
    scope = Scope(os.fspath(origin), trust is True or outer.everything, given, exact)
    with reopened(scope):
        yield scope


@contextmanager
def reading(origin: str | os.PathLike[str], trust: Trust = None) -> Iterator[Scope]:
    """Open received data as :func:`opening` does, and turn every failure into one error that names the origin.

    Received data can be wrong in any way, so that any exception can follow. If it is trusted, the user's own classes
    take part, and their exceptions are raised as they are.

    Raises:
        UserError: If the data cannot be used.
    """
    with opening(origin, trust) as scope:
        try:
            yield scope
        except UserError:
            raise
        except Exception as error:
            if scope.everything or scope.modules:
                raise
            reason = str(error).strip().partition("\n")[0][:300]
            raise UserError(f"{os.fspath(origin)}: cannot be opened: {type(error).__name__}: {reason}") from error


@contextmanager
def reopened(scope: Scope | None) -> Iterator[None]:
    """Continue in an opening that :func:`current` returned earlier; ``None`` changes nothing.

    An object that was built from received data keeps its scope, and resolves later names in it.
    """
    if scope is None:
        yield
        return
    token = _scope.set(scope)
    with _lock:
        _active.append(scope)
        _publish()
    try:
        yield
    finally:
        _scope.reset(token)
        with _lock:
            _active.remove(scope)
            _publish()


@contextmanager
def granted(trust: Trust) -> Iterator[None]:
    """Allow names in every opening within a training: its teacher, its weights, its checkpoint."""
    global _granted
    before, _granted = _granted, Scope("", trust is True, _names(trust))
    try:
        yield
    finally:
        _granted = before


def in_own_scope(method: Callable[..., R]) -> Callable[..., R]:
    """Decorate a method to run in the opening that its object was made in: the attribute ``opened``."""

    @wraps(method)
    def scoped(self: Any, *arguments: Any, **named: Any) -> R:
        with reopened(self.opened):
            return method(self, *arguments, **named)

    return scoped


def _names(trust: Trust) -> frozenset[str]:
    return frozenset([trust] if isinstance(trust, str) else () if trust is None or isinstance(trust, bool) else trust)


def _publish() -> None:
    """Let child processes inherit the newest opening."""
    if not _active:
        os.environ.pop(_VARIABLE, None)
        return
    newest = _active[-1]
    names = sorted({*newest.modules, *newest.exact, *_declared})
    os.environ[_VARIABLE] = json.dumps({"origin": newest.origin, "everything": newest.everything, "names": names})


def allow(value: R) -> R:
    """Allow the dotted paths in ``value``, which the user gave for this invocation; return ``value``.

    Args:
        value: a config, a spec, or a name. Outside an opening nothing has to be allowed.
    """
    scope = current()
    if scope is not None:
        scope.exact.update(_dotted_names(value))
        with _lock:
            _publish()
    return value


def _dotted_names(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if _DOTTED.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _dotted_names(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _dotted_names(each)


def declare(cls: type) -> None:
    """Trust a class that the program itself handed over, for the rest of this process."""
    _declared.add(f"{cls.__module__}.{cls.__qualname__}")


def import_named(path: str, where: str, expected: str, accepted: Collection[type] = ()) -> Any:
    """Return the object at a dotted path.

    Args:
        path: a module and an attribute of it: ``my_lab.losses.Mine``.
        where: the place in the config, for the message.
        expected: the accepted kind, for the message: ``"loss"``.
        accepted: classes of imgrec that received data may name.

    Raises:
        UntrustedError: If received data is open and ``path`` is not trusted. No module was imported.
        ImportError: If the module cannot be imported.
        AttributeError: If the module lacks the attribute.
        ValueError: If ``path`` is not a dotted path.
    """
    module, _, attribute = path.rpartition(".")
    for each in accepted:
        own = module.startswith("imgrec.") and getattr(sys.modules.get(module), attribute, None) is each
        if attribute == each.__name__ and (own or module in ("", "imgrec", each.__module__)):
            return each
    scope = current()
    if scope is None:
        found = getattr(importlib.import_module(module), attribute)
        _declared.add(path)
        if isinstance(found, type):
            declare(found)
        return found
    if not scope.allows(path):
        raise refusal(path, where, expected)
    with _current_folder_last():
        return getattr(importlib.import_module(module), attribute)


def module_named(name: str) -> Any:
    """Return the module that the user's own config names.

    Raises:
        UntrustedError: If received data is open and the module is not trusted.
        ImportError: If it cannot be imported.
    """
    scope = current()
    if scope is not None and not scope.allows(name):
        raise refusal(name, "", "class")
    return importlib.import_module(name)


def refusal(path: str, where: str, expected: str) -> UntrustedError:
    """Return the error for a name that received data must not resolve."""
    scope = current()
    origin = scope.origin if scope is not None else ""
    place = where if origin in where else f"{origin}: {where}" if where else origin
    return UntrustedError(
        f'{place}: expected the name of a registered {expected}, got "{path}", which is code outside the registries. '
        f"If you trust the origin of this file: {OPTION}={path} allows the name, {OPTION} allows every name "
        f"(Python: trust=True), and a line with the name or its module in {trust_file()} allows it permanently."
    )


def refuse_unless_trusted(what: str, reason: str) -> None:
    """Raise if received data is open and not trusted as a whole.

    Args:
        what: the place and the value, as the message begins.
        reason: the effect of the value.

    Raises:
        UntrustedError: If an opening without ``trust=True`` is active.
    """
    scope = current()
    if scope is not None and not scope.everything:
        raise UntrustedError(
            f"{scope.origin}: {what}: {reason}. If you trust the origin of this file: {OPTION} allows it "
            "(Python: trust=True)."
        )


def trust_file() -> Path:
    """Return the path of the user's trust file: ``$XDG_CONFIG_HOME/imgrec/trust``, default ``~/.config``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "imgrec" / "trust"


def trusted_modules() -> list[str]:
    """Return the classes and modules in the user's trust file: one per line, comments after ``#``.

    Raises:
        UserError: If the file exists and cannot be read.
    """
    path = trust_file()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return [word for line in lines if (word := line.partition("#")[0].strip())]


@contextmanager
def _current_folder_last() -> Iterator[None]:
    """Find trusted modules in the current folder, after every installed module."""
    here = os.getcwd()  # noqa: PTH109
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


@contextmanager
def without_current_folder() -> Iterator[None]:
    """Take the current folder off the module path, unless PYTHONPATH names it; ``python -m`` and ``-c`` add it."""
    here = os.getcwd()  # noqa: PTH109
    asked = {os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each}  # noqa: PTH100
    removed = [] if here in asked else [(at, each) for at, each in enumerate(sys.path) if each in ("", here)]
    for at, _ in reversed(removed):
        del sys.path[at]
    try:
        yield
    finally:
        for at, each in removed:
            sys.path.insert(at, each)
