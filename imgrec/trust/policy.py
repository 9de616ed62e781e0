"""Trust policy: the rule that decides which names in data become imported objects.

**Opening** is reading the files of another process: a model folder, a checkpoint, a run folder or an export. While
:func:`opening` is active, a name in data resolves to a registered entry only. Any other name raises an error before a
module is imported. **Training** from the user's own config is not an opening, and a dotted path can name any class.

This is the only module of imgrec that imports modules by names from data. SECURITY.md states the guarantees.
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
"""``True`` allows every name. A name or a collection of names allows these classes and modules."""

_VARIABLE = "IMGREC_OPENING"


@dataclass(frozen=True, eq=False)
class Scope:
    """Permissions of an opening.

    Args:
        origin: Opened path, for messages.
        everything: True if every name is allowed. Defaults to False.
        modules: Allowed classes and modules, including their submodules. Defaults to none.
        exact: Allowed names, without submodules. Defaults to none.
    """

    origin: str
    everything: bool = False
    modules: frozenset[str] = frozenset()
    exact: set[str] = field(default_factory=set)

    def is_allowed(self, name: str) -> bool:
        """Return True if the dotted path ``name`` may be imported in this opening."""
        return self.is_named(name) or any(name.startswith(f"{each}.") for each in (*self.modules, *trusted_modules()))

    def is_named(self, name: str) -> bool:
        """Return True if ``name`` itself is allowed, not only a parent module."""
        return self.everything or name in {*self.modules, *self.exact, *_declared, *trusted_modules()}


def _inherited() -> list[Scope]:
    """Return the opening of the parent process at the start of this process."""
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
"""Openings of all threads. The newest applies to threads without an opening."""
_declared: set[str] = set()
"""Dotted paths in the user's own config in this process."""
_lock = threading.RLock()
_granted = Scope("")


def current() -> Scope | None:
    """Return the opening of this thread, or ``None`` if no received data is open."""
    found = _scope.get()
    return found if found is not None else _active[-1] if _active else None


@contextmanager
def opening(origin: str | os.PathLike[str], trust: Trust = None) -> Iterator[Scope]:
    """Resolve registered names only, for the duration of the ``with`` block.

    A nested opening also allows the names of the outer opening. Child processes inherit the opening.

    Args:
        origin: Opened path, for messages.
        trust: Additional names to allow. ``True`` allows every name. Defaults to none.

    >>> with opening("received"):
    ...     current().is_allowed("os.system")
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
    """Open received data as :func:`opening` does, and convert every exception to an error with the origin.

    Invalid received data can cause any exception. If the data is trusted, exceptions of the user's own classes are
    raised unchanged.

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
    """Activate an opening that :func:`current` returned earlier. ``None`` has no effect.

    An object from received data stores its scope and resolves later names in it.
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
    """Allow names in every opening inside a training: its teacher, its weights and its checkpoint."""
    global _granted
    before, _granted = _granted, Scope("", trust is True, _names(trust))
    try:
        yield
    finally:
        _granted = before


def in_own_scope(method: Callable[..., R]) -> Callable[..., R]:
    """Decorate a method to run in the opening in which its object was created (attribute ``opened``)."""

    @wraps(method)
    def scoped(self: Any, *arguments: Any, **named: Any) -> R:
        with reopened(self.opened):
            return method(self, *arguments, **named)

    return scoped


def _names(trust: Trust) -> frozenset[str]:
    return frozenset([trust] if isinstance(trust, str) else () if trust is None or isinstance(trust, bool) else trust)


def _publish() -> None:
    """Set the environment variable from which child processes inherit the newest opening."""
    if not _active:
        os.environ.pop(_VARIABLE, None)
        return
    newest = _active[-1]
    names = sorted({*newest.modules, *newest.exact, *_declared})
    os.environ[_VARIABLE] = json.dumps({"origin": newest.origin, "everything": newest.everything, "names": names})


def allow(value: R) -> R:
    """Allow the dotted paths in a value from the user's own command, and return the value.

    Args:
        value: Config, spec or name. The call has no effect outside an opening.
    """
    scope = current()
    if scope is not None:
        scope.exact.update(dotted_names(value))
        with _lock:
            _publish()
    return value


def declare(cls: type) -> None:
    """Add a class that the program passed in Python to the trusted classes of this process."""
    _declared.add(f"{cls.__module__}.{cls.__qualname__}")


def import_named(path: str, where: str, expected: str, accepted: Collection[type] = ()) -> Any:
    """Return the object at a dotted path.

    Args:
        path: Module and attribute, for example ``my_lab.losses.Mine``.
        where: Key in the config, for the message.
        expected: Accepted kind, for the message, for example ``"loss"``.
        accepted: Classes of imgrec that received data can name. Defaults to none.

    Raises:
        UntrustedError: If received data is open and ``path`` is not trusted. No module is imported.
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
    if not scope.is_allowed(path):
        raise untrusted_name(scope.origin, path, where, expected)
    with current_folder_last():
        found = getattr(importlib.import_module(module), attribute)
    if not scope.is_named(path) and not scope.is_allowed(
        home := _home(found)
    ):  # a trusted module imports it from another module
        raise untrusted_name(scope.origin, path, where, expected, home)
    return found


def _home(found: Any) -> str:
    """Return the dotted path of the definition of a class, a function or the class of an instance."""
    named = found if hasattr(found, "__qualname__") else type(found)
    return f"{named.__module__}.{named.__qualname__}"


def module_named(name: str) -> Any:
    """Import and return a module that the user's own config names.

    Raises:
        UntrustedError: If received data is open and the module is not trusted.
        ImportError: If the module cannot be imported.
    """
    scope = current()
    if scope is not None and not scope.is_allowed(name):
        raise untrusted_name(scope.origin, name, "", "class")
    return importlib.import_module(name)


def refuse_unless_trusted(setting: str, reason: str) -> None:
    """Raise an error if received data is open without full trust and contains a setting with a dangerous effect.

    A setting of the user's own config is accepted in the checkpoint of the same training.

    Args:
        setting: Key and value, the beginning of the message.
        reason: Effect of the value.

    Raises:
        UntrustedError: If an opening without ``trust=True`` is active.
    """
    scope = current()
    if scope is None:
        _declared.add(setting)
    elif not scope.is_named(setting):
        raise untrusted_value(scope.origin, setting, reason)
