"""``imgrec runs``: print a sorted and filtered table of run folders, and write it as CSV or JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.option_types import Number
from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.utils.ranges import PositiveInt
from imgrec.utils.terminal import print
from imgrec.utils.write_errors import Postponed

if TYPE_CHECKING:
    from imgrec.runs.table import RunTable

_LONGEST = 44  # characters of a cell in the terminal


def run(command: str, words: list[str]) -> int:
    """Print the table, and write the requested files."""
    parser = Parser(
        prog="imgrec runs",
        description="Print a table of run folders: differences of their configs, metrics and cost.",
        epilog="Columns are keys of the config (loss/name, optimizer/lr, data/batch_size), metrics of the best "
        "checkpoint (val/acc, test/acc), and columns of metrics.csv after best/ or last/.",
    )
    parser.add_argument("folder", nargs="?", default="runs", help="folder of the runs")
    parser.add_argument(
        "--sort", metavar="COLUMN", help="column to sort by, best first: test/acc, train_seconds, optimizer/lr"
    )
    parser.add_argument("--reverse", action="store_true", help="sort worst first")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="CONDITION",
        help="'val/acc>0.9', 'loss/name=focal', 'status!=finished', 'run=*lite0*'. May be given several times",
    )
    parser.add_argument(
        "--columns",
        metavar="LIST",
        help="columns to show: 'loss/*,test/acc' (default: those that differ)",
    )
    parser.add_argument("--limit", type=Number(PositiveInt), metavar="N", help="number of rows")
    parser.add_argument("--csv", metavar="FILE", help="write the rows with all columns or those of --columns")
    parser.add_argument("--json", metavar="FILE", help="write the rows as a JSON list of objects")
    arguments = parser.parse_args(words)

    from imgrec.runs.table import run_table

    table = everything = run_table(arguments.folder)
    for condition in arguments.filter:
        table = table.filtered(condition)
    if arguments.sort is not None:
        table = table.sorted(arguments.sort, arguments.reverse)
    elif arguments.reverse:
        raise UserError("--reverse: expected --sort COLUMN as well.")
    columns = None if arguments.columns is None else _with_run(everything.select_columns(arguments.columns))
    found = len(table.rows)
    if arguments.limit is not None:
        table = table.limited(arguments.limit)
    _print(table, columns, found, len(everything.rows))
    postponed = Postponed()
    for given, write in ((arguments.csv, _write_csv), (arguments.json, _write_json)):
        if given is not None:
            with postponed:
                write(Path(given), table, columns or table.columns)
                print(f"written    {given}: {len(table.rows)} rows")
    postponed.raise_first()
    return 0


def _with_run(columns: list[str]) -> list[str]:
    """Return the columns with the name of the run, first if it is missing."""
    return columns if "run" in columns else ["run", *columns]


def _print(table: RunTable, selected: list[str] | None, found: int, total: int) -> None:
    from imgrec.cli.output import console_for, print_table

    if not table.rows:
        where = f"of the {total} runs in {table.root} meets the filter" if total else f"in {table.root}"
        print(f"no run {where}")
        return
    columns = selected or table.overview()
    cells = [[_text(column, row.get(column)) for column in columns] for row in table.rows]
    text = [c for c in columns if not all(isinstance(row.get(c), int | float | None) for row in table.rows)]
    best = [column for column in columns if column.startswith("best/")]
    late = [c for c in columns if c.startswith("last/") or c in ("epochs", "train_seconds", "parameters", "size")]
    order = [
        "status",
        *best,
        *(c for c in columns if c.startswith("test/")),
        *(c for c in columns if c not in late),
        *late,
    ]
    left_out = print_table(
        console_for(10_000),
        [_title(column) for column in columns],
        cells,
        left={"run", "status", *(_title(column) for column in text)},
        order=[_title(column) for column in order],
        whole=selected is not None,
    )
    more = f", not shown because the terminal is too narrow: {', '.join(left_out)}" if left_out else ""
    some = f"{len(table.rows)} of {found}" if len(table.rows) < found else str(found)
    of = f" (of {total})" if found < total else ""
    print(f"\n{some} {'run' if found == 1 else 'runs'}{of} in {table.root}{more}")


def _title(column: str) -> str:
    return {"train_seconds": "time", "seed_everything": "seed"}.get(column, column)


def _text(column: str, value: Any) -> str:
    from imgrec.runs.table import METRIC_PREFIXES
    from imgrec.utils.formatting import config_value, duration, format_size, short_count

    if value is None:
        return ""
    if column == "train_seconds":
        return duration(value)
    if column == "size":
        return format_size(value)
    if column == "parameters":
        return short_count(value)
    if isinstance(value, float) and column.startswith(METRIC_PREFIXES):
        return f"{value:.4f}"
    text = " ".join(config_value(value).split())
    return text if len(text) <= _LONGEST or column == "run" else f"{text[: _LONGEST - 1]}…"


def _write_csv(path: Path, table: RunTable, columns: list[str]) -> None:
    import json

    from imgrec.utils.csv_files import write_rows

    def cell(value: Any) -> Any:
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict | bool) else value

    write_rows(path, columns, ([cell(row.get(column)) for column in columns] for row in table.rows))


def _write_json(path: Path, table: RunTable, columns: list[str]) -> None:
    import json

    from imgrec.runs.summary import to_plain
    from imgrec.utils.paths import write_text

    rows = [{column: to_plain(row[column]) for column in columns if column in row} for row in table.rows]
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
