"""Errors for names and values that received data must not contain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from imgrec.errors import SpecError
from imgrec.trust.trust_file import trust_file

OPTION = "--trust"
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


class UntrustedError(SpecError):
    """Name in received data of a class that is neither registered nor trusted."""


def untrusted_name(origin: str, path: str, where: str, expected: str, home: str = "") -> UntrustedError:
    """Return the error for a name that received data must not resolve.

    Args:
        origin: Opened path.
        path: Untrusted name.
        where: Key in the config.
        expected: Accepted kind, for example ``"loss"``.
        home: Dotted path of the definition of the object, if it differs. Defaults to none.
    """
    place = where if origin in where else f"{origin}: {where}" if where else origin
    got = f'{place}: expected the name of a registered {expected}, got "{path}"'
    if not _DOTTED.fullmatch(path):  # no option is printed, because a user may paste it and the name is data
        return UntrustedError(f"{got}, which is not the dotted path of a class.")
    other = f" (it is {home})" if home else ""
    return UntrustedError(
        f"{got}{other}, which is code outside the registries. "
        f"If you trust the origin of this file: {OPTION}={path} allows the name, and {OPTION} allows every name "
        f"(Python: trust=True). A line with the name or its module in {trust_file()} allows it permanently."
    )


def untrusted_value(origin: str, setting: str, reason: str) -> UntrustedError:
    """Return the error for a value with an effect that received data must not have.

    Args:
        origin: Opened path.
        setting: Key and value, the beginning of the message.
        reason: Effect of the value.
    """
    return UntrustedError(
        f"{origin}: {setting}: {reason}. If you trust the origin of this file: {OPTION} allows it (Python: trust=True)."
    )


def dotted_names(value: Any) -> Iterator[str]:
    """Yield the texts in plain data that are dotted paths."""
    if isinstance(value, str):
        if _DOTTED.fullmatch(value):
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from dotted_names(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from dotted_names(each)
