"""Files that a command writes where it is asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from imgrec.utils.csv_files import write_rows
from imgrec.utils.paths import Postponed, writing
from imgrec.utils.terminal import print


def write_given(given: str | None, write: Callable[[Path], Any]) -> None:
    """Write a file if one was asked for, and print its path.

    Raises:
        WriteError: If it cannot be written.
    """
    if given is None:
        return
    with writing(given):
        write(Path(given))
    print(f"written    {given}")


def write_each(wanted: Iterable[tuple[str | None, Callable[[Path], Any]]]) -> None:
    """Write every file that was asked for; a failure does not keep the others from being written.

    Args:
        wanted: paths, ``None`` for a file that was not asked for, and the functions that write them.

    Raises:
        WriteError: If one of them cannot be written: the first one.
    """
    postponed = Postponed()
    for given, write in wanted:
        with postponed:
            write_given(given, write)
    postponed.raise_first()


def write_table(given: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file if one was asked for, complete or not at all, and print its path.

    Raises:
        WriteError: If it cannot be written.
    """
    write_given(given, lambda path: write_rows(path, columns, rows))
