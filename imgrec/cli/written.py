"""Files that a command writes where it is asked to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from imgrec.errors import UserError


def write_given(given: str | None, write: Callable[[Path], Any]) -> None:
    """Have a file written where one was asked for, and say so.

    Raises:
        UserError: it cannot be written, and why.
    """
    if given is None:
        return
    try:
        write(Path(given))
    except OSError as error:
        raise UserError(f"{given}: cannot be written ({error.strerror or error})") from error
    print(f"written    {given}")
