"""Files that a command writes where it is asked to."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from imgrec.errors import UserError
from imgrec.files import written_aside


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


def write_table(given: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Have a CSV file written where one was asked for, whole or not at all, and say so.

    Raises:
        UserError: it cannot be written, and why.
    """

    def write(path: Path) -> None:
        with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([columns, *rows])

    write_given(given, write)
