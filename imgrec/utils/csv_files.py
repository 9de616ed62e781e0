"""CSV files that a spreadsheet opens without running a formula.

A text cell that begins with ``=``, ``+``, ``-``, ``@``, a tab, a carriage return or a line feed is written with a
leading apostrophe. The same applies to cells with apostrophes before such a character. :func:`restored` removes one
apostrophe from such a cell and therefore returns the original text. Numbers are unchanged.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgrec.utils.paths import written_aside

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # noqa: RUF001 - spreadsheets accept the wide forms as well
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:inf|nan)")


def neutral(cell: Any) -> Any:
    """Return a cell that a spreadsheet reads as data, not as a formula.

    >>> neutral("=cmd|' /C calc'!A0"), neutral("-0.5"), neutral(-0.5), neutral("cat")
    ("'=cmd|' /C calc'!A0", '-0.5', -0.5, 'cat')
    """
    if isinstance(cell, Path):
        cell = str(cell)
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def restored(cell: str) -> str:
    """Return the original text of a cell that :func:`neutral` returned.

    >>> restored(neutral("=x")), restored(neutral("'=x")), restored(neutral("'x"))
    ('=x', "'=x", "'x")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


@contextmanager
def rows_written(path: str | Path) -> Iterator[Callable[[Iterable[Any]], None]]:
    """Yield a function that writes one row of a CSV file. The file is written completely or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file, lineterminator="\n")
        yield lambda cells: writer.writerow([neutral(cell) for cell in cells])


def write_rows(path: str | Path, columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file completely or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    with rows_written(path) as write:
        write(columns)
        for row in rows:
            write(row)
