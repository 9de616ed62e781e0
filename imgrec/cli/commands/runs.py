"""``imgrec runs``: a table of run folders, sorted and filtered; as CSV or JSON on request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.utils.paths import Postponed
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.runs.table import RunTable

_LONGEST = 44  # characters of a cell; the files hold all of it


def run(command: str, words: list[str]) -> int:
    """Print the table; write the files that are asked for."""
    parser = Parser(
        prog="imgrec runs",
        description="A table of run folders: what differs in their configs, their figures, their cost. "
        "It reads files and needs no server.",
        epilog="Columns have the names that they have in the config (loss/name, optimizer/lr, data/batch_size) and in "
        "metrics.csv, after best/ or last/, or as they are for the checkpoint that was kept: val/acc, test/acc.",
    )
    parser.add_argument("folder", nargs="?", default="runs", help="where the runs are (default: runs)")
    parser.add_argument("--sort", metavar="COLUMN", help="the best first: test/acc, train_seconds, optimizer/lr")
    parser.add_argument("--reverse", action="store_true", help="the worst first")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="CONDITION",
        help="'val/acc>0.9', 'loss/name=focal', 'status!=finished', 'run=*lite0*'; may be given several times",
    )
    parser.add_argument(
        "--columns", metavar="LIST", help="'run,loss/*,test/acc' (by default what tells the runs apart)"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument("--csv", metavar="FILE", help="write the rows there, with every column or those of --columns")
    parser.add_argument("--json", metavar="FILE", help="the same as JSON: a list of objects")
    arguments = parser.parse_args(words)
    if arguments.limit is not None and arguments.limit < 1:
        raise UserError(f"--limit: expected 1 or more, got {arguments.limit}")

    from imgrec.runs.table import run_table

    table = everything = run_table(arguments.folder)
    for condition in arguments.filter:
        table = table.filtered(condition)
    if arguments.sort is not None:
        table = table.sorted(arguments.sort, arguments.reverse)
    elif arguments.reverse:
        raise UserError("--reverse turns the order of --sort COLUMN around; give both")
    chosen = None if arguments.columns is None else everything.chosen(arguments.columns)
    found = len(table.rows)
    if arguments.limit is not None:
        table = table.limited(arguments.limit)
    _print(table, chosen, found, len(everything.rows))
    postponed = Postponed()
    for given, write in ((arguments.csv, _write_csv), (arguments.json, _write_json)):
        if given is not None:
            with postponed:
                write(Path(given), table, chosen or table.columns)
                print(f"written    {given}: {len(table.rows)} rows")
    postponed.raise_first()
    return 0


def _print(table: RunTable, chosen: list[str] | None, found: int, total: int) -> None:
    from imgrec.cli.output import console_for, print_table

    if not table.rows:
        where = f"of the {total} runs in {table.root} meets the filter" if total else f"in {table.root}"
        print(f"no run {where}")
        return
    columns = chosen or table.overview()
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
        whole=chosen is not None,
    )
    more = f"; left out for want of width: {', '.join(left_out)}" if left_out else ""
    some = f"{len(table.rows)} of {found}" if len(table.rows) < found else str(found)
    of = f" (of {total})" if found < total else ""
    print(f"\n{some} {'run' if found == 1 else 'runs'}{of} in {table.root}{more}")


def _title(column: str) -> str:
    return {"train_seconds": "time", "seed_everything": "seed"}.get(column, column)


def _text(column: str, value: Any) -> str:
    from imgrec.runs.rows import FIGURES
    from imgrec.utils.formatting import config_value, duration, format_size, short_count

    if value is None:
        return ""
    if column == "train_seconds":
        return duration(value)
    if column == "size":
        return format_size(value)
    if column == "parameters":
        return short_count(value)
    if isinstance(value, float) and column.startswith(FIGURES):
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

    from imgrec.runs.summary import plain
    from imgrec.utils.paths import write_text

    rows = [{column: plain(row[column]) for column in columns if column in row} for row in table.rows]
    write_text(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
