"""Table of run folders: configs, metrics and costs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from imgrec.errors import UserError, suggestion
from imgrec.metrics.names import mode_of, shown_in
from imgrec.runs.config import fill_defaults, flat_config
from imgrec.runs.evaluations import read_evaluations
from imgrec.runs.folder import CONFIG, ENVIRONMENT, RunFolder
from imgrec.runs.liveness import status_of
from imgrec.runs.metrics_csv import read_last_values
from imgrec.runs.summary import HIGHER_IS_BETTER, SUMMARY
from imgrec.trust import opening, reading
from imgrec.utils import yaml

Row = dict[str, Any]
"""Values of one run by column. A column that the run lacks is absent."""

METRIC_PREFIXES = ("best/", "val/", "test/", "evaluations/", "last/")
COST_COLUMNS = ("epochs", "steps", "train_seconds", "parameters", "size")

_SPLITS = ("val", "test")
_RUN_COLUMNS = ("run", "status", "started")
_NAME_COLUMNS = ("experiment", "runs")
_FILTER = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*")


@dataclass(frozen=True)
class RunTable:
    """Table with one row per run.

    The columns are:

    - ``run`` (path below ``root``), ``status``, ``started``,
    - the config (``loss/name``, ``seed_everything``),
    - ``best/<metric>``: best value of the monitored metric,
    - ``val/...`` and ``test/...``: metrics of the selected checkpoint,
    - ``last/...``: metrics of the last epoch,
    - ``epochs``, ``steps``, ``train_seconds``, ``parameters``, ``size`` (bytes on disk),
    - ``problem``: reason if a run folder cannot be read.

    Attributes:
        root: Folder of the runs.
        rows: Values of every run by column.
        config_columns: Columns of the configs.
        directions: ``higher_is_better`` of the metrics that the tasks state, by name.
    """

    root: Path
    rows: tuple[Row, ...]
    config_columns: frozenset[str] = field(repr=False)
    directions: dict[str, bool] = field(default_factory=dict, repr=False)

    @property
    def columns(self) -> list[str]:
        """All columns of all rows, in the order of the table."""
        found = dict.fromkeys(column for row in self.rows for column in row)
        config = [column for column in found if column in self.config_columns]
        metrics = [column for prefix in METRIC_PREFIXES for column in found if column.startswith(prefix)]
        general = [column for column in _RUN_COLUMNS if column in found]
        return [*general, *config, *metrics, *(column for column in (*COST_COLUMNS, "problem") if column in found)]

    def overview(self) -> list[str]:
        """Return the main columns: different config values, main metrics and costs."""
        differs = [c for c in self.columns if c in self.config_columns and c not in _NAME_COLUMNS and self._differs(c)]
        best = [c for c in self.columns if c.startswith("best/")]
        last = [c for name in best if (c := name.replace("best/", "last/")) in self.columns]
        rest = [c for c in ("epochs", "train_seconds", "parameters", "size", "problem") if self._has(c)]
        tested = [c.removeprefix("test/") for c in self.columns if c.startswith("test/")]
        shown = [f"test/{name}" for name in shown_in("runs", tested) if self._has(f"test/{name}")]
        return ["run", "status", *differs, *best, *last, *shown, *rest]

    def select_columns(self, patterns: str) -> list[str]:
        """Return the columns of a list of names and globs, in its order: ``"run,loss/*,val/acc"``.

        Raises:
            UserError: If an element matches no column.
        """
        found: dict[str, None] = {}
        for pattern in map(str.strip, patterns.split(",")):
            matches = [column for column in self.columns if fnmatchcase(column, pattern)]
            if not matches:
                raise UserError(self._unknown("--columns", pattern))
            found |= dict.fromkeys(matches)
        return list(found)

    def filtered(self, condition: str) -> RunTable:
        """Return the rows that meet a condition, such as ``val/acc>0.9``, ``loss/name=focal`` or ``run=*lite0*``.

        A row that lacks the column meets only ``!=``. Text may contain globs.

        Raises:
            UserError: If the condition is invalid, or no run has the column.
        """
        parts = _FILTER.fullmatch(condition)
        if parts is None:
            raise UserError(f"--filter {condition}: expected a condition such as 'val/acc>0.9' or 'loss/name=focal'")
        column, operator, text = parts.groups()
        if self.rows and column not in self.columns:
            raise UserError(self._unknown("--filter", column))
        meets = _condition(operator, text)
        return replace(self, rows=tuple(row for row in self.rows if meets(row.get(column))))

    def sorted(self, column: str, reverse: bool = False) -> RunTable:
        """Return the rows sorted by a column: metrics with the best first, other columns in increasing order.

        Rows without the column are last in both orders.

        Args:
            column: Column to sort by.
            reverse: If True, reverse the order. Defaults to False.

        Raises:
            UserError: If no run has the column.
        """
        if self.rows and column not in self.columns:
            raise UserError(self._unknown("--sort", column))
        is_descending = column.startswith(METRIC_PREFIXES) and mode_of(column, self.directions) == "max"
        present = [row for row in self.rows if row.get(column) is not None]
        absent = [row for row in self.rows if row.get(column) is None]
        present.sort(key=lambda row: _rank(row[column]), reverse=is_descending != reverse)
        return replace(self, rows=(*present, *absent))

    def limited(self, count: int) -> RunTable:
        """Return the first ``count`` rows."""
        return replace(self, rows=self.rows[:count])

    def _differs(self, column: str) -> bool:
        rows = [row for row in self.rows if row["status"] != "broken"]
        return any(row.get(column) != rows[0].get(column) for row in rows)

    def _has(self, column: str) -> bool:
        return any(row.get(column) is not None for row in self.rows)

    def _unknown(self, option: str, name: str) -> str:
        ends = [column for column in self.columns if column.endswith(f"/{name}")]
        hint = f' Did you mean "{ends[0]}"?' if ends else suggestion(name, self.columns)
        return f'{option}: no run has a column "{name}".{hint} `--columns "*"` shows all.'


def run_table(root: str | os.PathLike[str]) -> RunTable:
    """Read the run folders at ``root`` and below it as a table, sorted by name.

    A run folder that cannot be read has the status ``broken`` and the reason in ``problem``. Only the end of
    metrics.csv is read, so that a thousand long runs take seconds.

    Args:
        root: Folder of the runs.

    Raises:
        UserError: If there is no such folder.

    Example:
        >>> table = imgrec.run_table("runs")  # doctest: +SKIP
        >>> table.filtered("loss/name=focal").sorted("test/acc").overview()  # doctest: +SKIP
        ['run', 'status', 'optimizer/lr', 'best/val/acc', 'last/val/acc', 'test/acc', 'epochs', 'train_seconds']
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"folder of runs not found: {root}")
    rows: list[Row] = []
    names: set[str] = set()
    directions: dict[str, bool] = {}
    with opening(root):
        for folder, run in open_runs(list(find_run_folders(root))).items():
            row, config = read_row(folder, root, run)
            rows.append(row)
            names |= config
            directions |= row.pop(HIGHER_IS_BETTER, {})
    return RunTable(root, tuple(rows), frozenset(names), directions)


def _condition(operator: str, text: str) -> Callable[[Any], bool]:
    operand = yaml.parse_scalar(text)
    if operator in ("=", "==", "!="):
        same = operator != "!="
        return lambda value: _equal(value, operand, text) is same
    if isinstance(operand, bool) or not isinstance(operand, int | float | str):
        raise UserError(f"--filter: expected a number or a date after {operator}, got {text!r}")
    compare: dict[str, Callable[[Any], bool]] = {
        ">": lambda value: value > operand,
        "<": lambda value: value < operand,
        ">=": lambda value: value >= operand,
        "<=": lambda value: value <= operand,
    }
    kinds: Any = str if isinstance(operand, str) else int | float
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and compare[operator](value)


def _equal(value: Any, operand: Any, text: str) -> bool:
    if isinstance(value, str):
        return fnmatchcase(value, text)
    return bool(value == operand)


def _rank(value: Any) -> tuple[int, Any]:
    """Return a sort key: numbers, then text, then other values by their text."""
    if isinstance(value, int | float):
        return (0, value)
    return (1, value) if isinstance(value, str) else (2, str(value))


def find_run_folders(folder: Path, depth: int = 8) -> Iterator[Path]:
    """Yield the run folders at ``folder`` and below it, including incomplete ones."""
    with os.scandir(folder) as entries:
        content = sorted(entries, key=lambda entry: entry.name)
    names = {entry.name for entry in content}
    if ENVIRONMENT in names or {CONFIG, SUMMARY} <= names or {CONFIG, "metrics.csv"} <= names:
        yield folder
    elif depth:
        for entry in content:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from find_run_folders(Path(entry.path), depth - 1)


def open_runs(folders: Sequence[Path]) -> dict[Path, RunFolder | UserError | OSError]:
    """Return the run of every folder with the defaults of its config, or the error if it cannot be read."""
    found: dict[Path, RunFolder | UserError | OSError] = {}
    for folder in folders:
        try:
            run = RunFolder(folder)
            assert isinstance(run.config, dict)
            found[folder] = run
        except (UserError, OSError) as error:
            found[folder] = error
    fill_defaults([run for run in found.values() if isinstance(run, RunFolder)])
    return found


def read_row(folder: Path, root: Path, run: RunFolder | UserError | OSError) -> tuple[Row, frozenset[str]]:
    """Return the row of a run, named by its path below ``root``, and the columns of its config."""
    row: Row = {"run": folder.relative_to(root).as_posix() if folder != root else folder.absolute().name}
    row["status"] = "broken"
    config: dict[str, Any] = {}
    try:
        if not isinstance(run, RunFolder):
            raise run
        with reading(folder):
            config = flat_config(run.recipe)
            row["started"] = run.environment.get("started")
            row |= config
            summary = run.summary
            row |= _metrics_of(run, summary)
            row["status"] = status_of(run)
    except (UserError, OSError) as error:
        row["problem"] = str(error).replace(f"{folder}{os.sep}", "").replace(f"{folder} ", "")
    row["size"] = _size_on_disk(folder)
    return row, frozenset(config)


def _metrics_of(run: RunFolder, summary: dict[str, Any]) -> Row:
    row: Row = {}
    metric = str(summary.get("monitor") or "val/acc")
    best = summary.get("best_score")
    if best is None and run.metrics_file.is_file():  # it is in training, or was interrupted
        series = run.metrics().get(metric)
        if series is not None:
            best = float(
                series.values.min() if mode_of(metric, summary.get(HIGHER_IS_BETTER)) == "min" else series.values.max()
            )
    if best is not None:
        row[f"best/{metric}"] = best
    for split in _SPLITS:
        row |= {f"{split}/{name}": value for name, value in (summary.get(split) or {}).items()}
    for evaluation, found in read_evaluations(run).items():
        row |= {f"evaluations/{evaluation}/{name}": value for name, value in (found.get("metrics") or {}).items()}
    row |= {f"last/{name}": value for name, value in read_last_values(run.metrics_file).items()}
    row[HIGHER_IS_BETTER] = summary.get(HIGHER_IS_BETTER) or {}
    return row | {name: summary[name] for name in COST_COLUMNS if summary.get(name) is not None}


def _size_on_disk(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _size_on_disk(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total
