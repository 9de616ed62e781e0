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
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

from imgrec.errors import UserError
from imgrec.trust.module_path import current_folder_last
from imgrec.trust.trust_file import trusted_modules
from imgrec.trust.untrusted import dotted_names, untrusted_name, untrusted_value

R = TypeVar("R")

Trust = bool | str | Collection[str] | None
"""``True`` allows every name; a name or a collection of names allows these classes and modules."""

_VARIABLE = "IMGREC_OPENING"


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
        return self.names(name) or any(name.startswith(f"{each}.") for each in (*self.modules, *trusted_modules()))

    def names(self, name: str) -> bool:
        """Return True if ``name`` itself is allowed, and not only a module above it."""
        return self.everything or name in {*self.modules, *self.exact, *_declared, *trusted_modules()}


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
        scope.exact.update(dotted_names(value))
        with _lock:
            _publish()
    return value


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
        raise untrusted_name(scope.origin, path, where, expected)
    with current_folder_last():
        found = getattr(importlib.import_module(module), attribute)
    if not scope.names(path) and not scope.allows(home := _home(found)):  # a trusted module imports it from elsewhere
        raise untrusted_name(scope.origin, path, where, expected, home)
    return found


def _home(found: Any) -> str:
    """Return the dotted path under which a class, a function or an instance of a class was defined."""
    named = found if hasattr(found, "__qualname__") else type(found)
    return f"{named.__module__}.{named.__qualname__}"


def module_named(name: str) -> Any:
    """Return the module that the user's own config names.

    Raises:
        UntrustedError: If received data is open and the module is not trusted.
        ImportError: If it cannot be imported.
    """
    scope = current()
    if scope is not None and not scope.allows(name):
        raise untrusted_name(scope.origin, name, "", "class")
    return importlib.import_module(name)


def refuse_unless_trusted(what: str, reason: str) -> None:
    """Raise if received data is open, not trusted as a whole, and the user's own config did not have this value.

    A training reads its own checkpoint after it: what its config set in this process is accepted there.

    Args:
        what: the place and the value, as the message begins.
        reason: the effect of the value.

    Raises:
        UntrustedError: If an opening without ``trust=True`` is active.
    """
    scope = current()
    if scope is None:
        _declared.add(what)
    elif not scope.names(what):
        raise untrusted_value(scope.origin, what, reason)
