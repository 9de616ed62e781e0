"""Escaping of control characters in terminal output.

Every module that prints imports :func:`print` from this module. A test enforces it.
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
_JOINERS = "\u200c\u200d"  # required by scripts and emoji, and without effect on the position of text
_ESCAPED = ("Cc", "Cf", "Cs", "Zl", "Zp")


def printable(text: str, newlines: bool = True) -> str:
    r"""Return ``text`` with control characters as escapes such as ``\x1b``.

    The Unicode categories Cc, Cf, Cs, Zl and Zp are escaped, except the zero-width joiners. Cf contains the overrides
    of the writing direction. Cs contains bytes of file names that are not UTF-8.

    Args:
        text: Any text.
        newlines: If True, keep line feeds and tabs. Use False for cells of a table. Defaults to True.

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
    """Print as the builtin does, and escape control characters on stdout and stderr."""
    if file is None or file is sys.stdout or file is sys.stderr:
        builtins.print(printable(sep.join(map(str, values))), end=end, file=file, flush=flush)
    else:
        builtins.print(*values, sep=sep, end=end, file=file, flush=flush)


class EscapingFormatter(logging.Formatter):
    """Log formatter that escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the formatted record with escaped control characters."""
        return printable(super().format(record))


_format_warning = warnings.formatwarning


def escape_warnings() -> None:
    """Escape control characters in Python warnings and in the log messages of Lightning."""
    warnings.formatwarning = lambda *given, **more: printable(_format_warning(*given, **more))
    handlers = [each for name in _LIBRARIES for each in logging.getLogger(name).handlers]
    for handler in [*handlers, logging.lastResort]:
        if handler is not None and (handler.formatter is None or type(handler.formatter) is logging.Formatter):
            kept = handler.formatter
            handler.setFormatter(EscapingFormatter(kept._fmt if kept is not None else None))


_LIBRARIES = ("pytorch_lightning", "lightning_fabric", "lightning.pytorch", "lightning.fabric", "lightning")
