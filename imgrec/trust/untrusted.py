"""The errors for what received data must not name, and the options that allow it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from imgrec.errors import SpecError
from imgrec.trust.trust_file import trust_file

OPTION = "--trust"
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


class UntrustedError(SpecError):
    """Received data names a class that is not registered and not trusted."""


def untrusted_name(origin: str, path: str, where: str, expected: str, home: str = "") -> UntrustedError:
    """Return the error for a name that received data must not resolve.

    Args:
        origin: the opened path.
        path: the refused name.
        where: the place in the config.
        expected: the accepted kind: ``"loss"``.
        home: the name under which the object was defined, if it is another one.
    """
    place = where if origin in where else f"{origin}: {where}" if where else origin
    got = f'{place}: expected the name of a registered {expected}, got "{path}"'
    if not _DOTTED.fullmatch(path):  # no option is printed: a user may paste it, and the name is data
        return UntrustedError(f"{got}, which is not the dotted path of a class.")
    other = f" (it is {home})" if home else ""
    return UntrustedError(
        f"{got}{other}, which is code outside the registries. "
        f"If you trust the origin of this file: {OPTION}={path} allows the name, {OPTION} allows every name "
        f"(Python: trust=True), and a line with the name or its module in {trust_file()} allows it permanently."
    )


def untrusted_value(origin: str, what: str, reason: str) -> UntrustedError:
    """Return the error for a value with an effect that received data must not have.

    Args:
        origin: the opened path.
        what: the place and the value, as the message begins.
        reason: the effect of the value.
    """
    return UntrustedError(
        f"{origin}: {what}: {reason}. If you trust the origin of this file: {OPTION} allows it (Python: trust=True)."
    )


def dotted_names(value: Any) -> Iterator[str]:
    """Yield the texts in plain data that can be the dotted path of a class."""
    if isinstance(value, str):
        if _DOTTED.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from dotted_names(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from dotted_names(each)
