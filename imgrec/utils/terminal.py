"""Text on its way to a terminal: control characters in file names and class names are escaped.

Every module of the package that prints imports :func:`print` from here; a test checks it.
"""

from __future__ import annotations

import builtins
import logging
import re
import sys
import unicodedata
import warnings
from typing import Any

_PLAIN = re.compile(r"[\n\t -~]*")
_JOINERS = "\u200c\u200d"  # scripts and emoji need them, and they do not move text
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str, newlines: bool = True) -> str:
    r"""Return ``text`` with control characters as escapes such as ``\x1b``.

    These are the categories Cc (with C1), Cf (with the overrides of the writing direction), Cs (bytes of file names
    that are not UTF-8), Zl and Zp of Unicode, except the zero-width joiners.

    Args:
        text: any text.
        newlines: whether line feeds and tabs stay. They do not stay in a cell of a table.

    >>> printable("cat\x1b[31m\u202eexe"), printable("Zürich 猫")
    ('cat\\x1b[31m\\u202eexe', 'Zürich 猫')
    """
    if newlines and _PLAIN.fullmatch(text):
        return text
    return "".join(each if _is_harmless(each, newlines) else _escape(each) for each in text)


def _is_harmless(character: str, newlines: bool) -> bool:
    if character in "\n\t":
        return newlines
    return character in _JOINERS or unicodedata.category(character) not in _ESCAPED


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def print(*values: object, sep: str = " ", end: str = "\n", file: Any = None, flush: bool = False) -> None:
    """Print like the builtin, with control characters escaped if it goes to stdout or stderr."""
    if file is None or file is sys.stdout or file is sys.stderr:
        builtins.print(printable(sep.join(map(str, values))), end=end, file=file, flush=flush)
    else:
        builtins.print(*values, sep=sep, end=end, file=file, flush=flush)


class EscapingFormatter(logging.Formatter):
    """A formatter of log records that escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one printable text."""
        return printable(super().format(record))


_format_warning = warnings.formatwarning


def escape_warnings() -> None:
    """Escape control characters in Python's warnings and in the log messages of Lightning."""
    warnings.formatwarning = lambda *given, **more: printable(_format_warning(*given, **more))
    handlers = [each for name in _LIBRARIES for each in logging.getLogger(name).handlers]
    for handler in [*handlers, logging.lastResort]:
        if handler is not None and (handler.formatter is None or type(handler.formatter) is logging.Formatter):
            kept = handler.formatter
            handler.setFormatter(EscapingFormatter(kept._fmt if kept is not None else None))


_LIBRARIES = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric", "lightning")
