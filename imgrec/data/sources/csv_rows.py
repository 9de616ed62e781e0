"""Strict reading of CSV files: every row has the cells of the header, and every message names the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from imgrec.errors import UserError, suggestion

_DELIMITERS = (",", ";", "\t", "|")


class CsvRow(NamedTuple):
    """The cells of a row, one per column name, and the line that the row begins in, counted from 1."""

    line: int
    cells: list[str]


class CsvRows(NamedTuple):
    """A CSV file: its path, its column names and its rows. Empty rows are left out."""

    path: Path
    header: list[str]
    rows: list[CsvRow]

    def column(self, name: str, hint: str = "") -> int:
        """Return the position of a column.

        Args:
            name: Name of the column.
            hint: Sentence for the end of the message. Defaults to none.

        Raises:
            UserError: If there is no such column.
        """
        if name not in self.header:
            raise UserError(
                f'{self.path} has no column "{name}".{suggestion(name, self.header)} '
                f"It has: {', '.join(self.header) or 'nothing'}.{' ' * bool(hint)}{hint}"
            )
        return self.header.index(name)

    def place(self, row: CsvRow) -> str:
        """Return the file and the line of a row, for messages."""
        return f"{self.path}, line {row.line}"


def read_csv(path: Path, required: Sequence[str], delimiter: str | None = None, strip: bool = True) -> CsvRows:
    """Read a CSV file.

    Accepted are UTF-8 with or without a byte order mark, the line ends of every system, empty lines, and cells in
    double quotes. Missing cells at the end of a row are empty. Further cells are accepted if they are empty.

    Args:
        path: CSV file.
        required: Names of required columns, which may be empty. They determine the default delimiter.
        delimiter: Character between two cells. Defaults to a tab for a ``.tsv`` file. For other files, it is the first
            of comma, semicolon, tab and vertical bar with which the header has the required columns. If no column is
            required, it is the first of them that occurs in the header.
        strip: True to remove white space around a cell. Defaults to True.

    Raises:
        UserError: If the file cannot be read, is empty, is not UTF-8 or is no valid CSV. If a column name occurs twice,
            or a row has more cells than the header.
    """
    text = _read(path)
    if delimiter is None:
        delimiter = _delimiter(path, text, required)
    records = _records(path, text, delimiter, strip)
    if not records:
        raise UserError(f"{path}: expected column names in the first row, got an empty file.")
    header = [name.strip() for name in records[0].cells]
    while header and not header[-1]:
        header.pop()
    twice = next((name for name in header if name and header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f'{path}, line {records[0].line}: the column name "{twice}" occurs twice. Rename one of them.')
    return CsvRows(path, header, [_fitted(path, header, row, delimiter) for row in records[1:]])


def _read(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except IsADirectoryError as error:
        raise UserError(f"{path}: expected a CSV file, got a folder.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except PermissionError as error:
        raise UserError(f"{path} may not be read: permission denied.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from error


def _delimiter(path: Path, text: str, required: Sequence[str]) -> str:
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    header = next((line for line in io.StringIO(text) if line.strip()), "")
    for delimiter in (usual, *_DELIMITERS):
        names = [name.strip().strip('"') for name in header.split(delimiter)]
        if set(required) <= set(names) and (required or len(names) > 1):
            return delimiter
    return usual


def _records(path: Path, text: str, delimiter: str, strip: bool) -> list[CsvRow]:
    found: list[CsvRow] = []
    line = 0
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=strip, strict=True)
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append(CsvRow(line + 1, [cell.strip() for cell in cells] if strip else cells))
            line = reader.line_num
    except (csv.Error, TypeError) as error:
        raise UserError(
            f"{path}, line {line + 1}: cannot be read as CSV with the delimiter {delimiter!r}: {error}. "
            "A cell that contains the delimiter or a quote must be in double quotes, and a quote inside is doubled."
        ) from error
    return found


def _fitted(path: Path, header: Sequence[str], row: CsvRow, delimiter: str) -> CsvRow:
    """Return the row with as many cells as the header has."""
    further = [cell for cell in row.cells[len(header) :] if cell.strip()]
    if further:
        raise UserError(
            f"{path}, line {row.line}: expected {len(header)} cells as in the header, got {len(row.cells)}. "
            f"A cell that contains {delimiter!r} must be in double quotes."
        )
    cells = row.cells[: len(header)]
    return CsvRow(row.line, cells + [""] * (len(header) - len(cells)))
