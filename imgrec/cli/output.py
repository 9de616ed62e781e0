"""Tables in a terminal that may be narrow: what matters least is left out, and named."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence

from rich.console import Console
from rich.table import Table

from imgrec.utils.console import PlainConsole
from imgrec.utils.terminal import printable

_GAP = 2


def console_for(piped_width: int) -> Console:
    """A console as wide as the terminal; as wide as given where the output goes into a file or a pipe."""
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
    """Print the columns that there is room for, and give the names of the others.

    Args:
        console: where to.
        columns: their names.
        rows: their cells.
        left: the columns of text, which stand on the left side; the first of all columns is never left out.
        order: what matters, first things first; the columns that it does not name come after it.
        whole: leave nothing out; what is too wide is folded.
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
