"""Types of option values: numbers with a range, file names with a suffix, and YAML values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from imgrec.engine.config import parse_value
from imgrec.utils.ranges import describe_type, is_in_range
from imgrec.utils.yaml import YAMLKeyError

PICTURES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")
"""Suffixes of pictures that matplotlib writes."""

_COMMA = re.compile(r"[-+]?\d+,\d+(?:[eE][-+]?\d+)?")


class Number:
    """The type of an option whose value is a number, in the notation of YAML 1.2.

    Args:
        hint: ``int``, ``float`` or a range type of :mod:`imgrec.utils.ranges`.

    Example:
        >>> from imgrec.utils.ranges import PositiveInt
        >>> Number(PositiveInt)("8"), Number(float)("1e-3"), Number(PositiveInt).description
        (8, 0.001, 'int > 0')
    """

    def __init__(self, hint: Any) -> None:
        self.hint = hint
        self.description = describe_type(hint)
        self._whole = (get_args(hint)[0] if get_origin(hint) is not None else hint) is int

    def __call__(self, text: str) -> int | float:
        """Return the number."""
        value = yaml_value(text)
        accepted = int if self._whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, accepted) or not is_in_range(value, self.hint):
            hint = f" Is {text} a decimal comma? Write {text.replace(',', '.')}." if _COMMA.fullmatch(text) else ""
            raise argparse.ArgumentTypeError(f"expected {self.description}, got {text}.{hint}")
        return value if self._whole else float(value)


class FileName:
    """The type of an option whose value is the name of a file with one of several suffixes.

    Args:
        suffixes: The accepted suffixes, in lower case.
    """

    def __init__(self, *suffixes: str) -> None:
        self.suffixes: Sequence[str] = suffixes

    def __call__(self, text: str) -> str:
        """Return the file name."""
        if Path(text).suffix.lower() not in self.suffixes:
            expected = ", ".join(self.suffixes[:-1])
            raise argparse.ArgumentTypeError(
                f"expected a file name that ends in {f'{expected} or ' if expected else ''}{self.suffixes[-1]}, "
                f"got {text}."
            )
        return text


def yaml_value(text: str) -> Any:
    """Return the value of an option as YAML reads it.

    Raises:
        argparse.ArgumentTypeError: If a mapping has a duplicate key, or a key from a decimal comma.
    """
    try:
        return parse_value(text)
    except YAMLKeyError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
