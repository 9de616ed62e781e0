"""Output of commands: tables as wide as the terminal, metrics, and files."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from imgrec.metrics.names import label_of, ordered
from imgrec.runs.folder import RunFolder
from imgrec.utils.console import PlainConsole
from imgrec.utils.csv_files import write_rows
from imgrec.utils.terminal import print, printable
from imgrec.utils.write_errors import Postponed, writing

if TYPE_CHECKING:
    from imgrec.engine.training import TrainingResult

_GAP = 2


def console_for(piped_width: int) -> Console:
    """Return a console with the width of the terminal, or with a given width if the output is a file or a pipe."""
    free = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    width = piped_width if free else None
    return PlainConsole(width=width, soft_wrap=free, force_jupyter=False)


def print_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: Collection[str],
    order: Sequence[str] = (),
    whole: bool = False,
) -> list[str]:
    """Print the columns that fit into the width of the console, and return the names of the omitted columns.

    The first column is never omitted.

    Args:
        console: Console to print to.
        columns: Names of the columns.
        rows: Cells of each row, one per column.
        left: Names of the columns that are aligned to the left.
        order: Names of columns by priority. Other columns have a lower priority. Defaults to none.
        whole: If True, every column is printed, and long cells are folded. Defaults to False.
    """
    columns = [printable(name, newlines=False) for name in columns]
    rows = [[printable(cell, newlines=False) for cell in row] for row in rows]
    left = {printable(name, newlines=False) for name in left}
    needs = [max(len(name), *(len(row[i]) for row in rows)) + _GAP for i, name in enumerate(columns)]
    ranked = sorted(range(1, len(columns)), key=lambda i: _place(columns[i], order))
    kept, room = {0}, console.width - needs[0] + _GAP
    for i in ranked:
        if whole or needs[i] <= room:
            kept.add(i)
            room -= needs[i]
    drawn = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for i in sorted(kept):
        drawn.add_column(columns[i], justify="left" if columns[i] in left else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(row[i] for i in sorted(kept)))
    console.print(drawn)
    return [name for i, name in enumerate(columns) if i not in kept]


def _place(column: str, order: Sequence[str]) -> int:
    return order.index(column) if column in order else len(order)


def print_results(results: Mapping[str, Mapping[str, float]], run: RunFolder | None, report: Path | None) -> None:
    """Print one row per metric and one column per split, then the paths of the run and its report."""
    console = PlainConsole(soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for split in results:
        table.add_column(split, justify="right")
    for name in ordered(name for figures in results.values() for name in figures):
        cells = [f"{figures[name]:.4f}" if name in figures else "" for figures in results.values()]
        table.add_row(label_of(name), *cells)
    console.print()
    console.print(table)
    if run is not None:
        console.print()
        summary = run.summary
        skipped = summary.get("skipped_images") or {}
        if skipped:
            console.print(f"skipped    {len(skipped)} unreadable image(s), named in summary.json")
        if "train_seconds" in summary and report is not None:
            console.print(f"training   {summary['train_seconds']:.1f} s, {summary.get('parameters', 0):,} parameters")
        console.print(f"run        {run.path}")
    if report is not None:
        console.print(f"report     {report}")


def print_training(result: TrainingResult) -> None:
    """Print the metrics of a training, and raise the first failure to write a result.

    Raises:
        ResourceError: If a result could not be written.
    """
    if result.metrics:
        print_results(result.metrics, result.run, result.report)
    if result.error is not None:
        raise result.error


def write_file(path: str | None, write: Callable[[Path], Any]) -> None:
    """Write a file and print its path, unless the path is None.

    Raises:
        WriteError: If the file cannot be written.
    """
    if path is None:
        return
    with writing(path):
        write(Path(path))
    print(f"written    {path}")


def write_files(files: Iterable[tuple[str | None, Callable[[Path], Any]]]) -> None:
    """Write several files. If one cannot be written, the others are written first.

    Args:
        files: Paths and the functions that write them. A file whose path is None is skipped.

    Raises:
        WriteError: If a file cannot be written. The message is that of the first one.
    """
    postponed = Postponed()
    for path, write in files:
        with postponed:
            write_file(path, write)
    postponed.raise_first()


def write_table(path: str | None, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file atomically and print its path, unless the path is None.

    Raises:
        WriteError: If the file cannot be written.
    """
    write_file(path, lambda path: write_rows(path, columns, rows))
