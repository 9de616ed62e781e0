"""Many run folders as one table: what was set, what came out, what it cost."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from imgrec.errors import UserError, suggestion
from imgrec.metrics.names import mode_of, shown_in
from imgrec.runs.rows import COSTS, FIGURES, Row, open_runs, read_row, run_folders
from imgrec.runs.summary import HIGHER_IS_BETTER
from imgrec.trust import opening
from imgrec.utils import yaml

_ABOUT = ("run", "status", "started")
_IN_THE_NAME = ("experiment", "runs")
_FILTER = re.compile(r"\s*([^<>=!]+?)\s*(>=|<=|!=|==|=|>|<)\s*(.*?)\s*")


@dataclass(frozen=True)
class RunTable:
    """Rows, one a run, and the columns to show: where something is the same in every run, the column is left out.

    Columns: ``run`` (the path below ``root``), ``status``, ``started``; the config's (``loss/name``,
    ``seed_everything``); ``best/<metric>``, the best value of the metric that chose the checkpoint; ``val/...`` and
    ``test/...``, that checkpoint's figures; ``last/...``, the last epoch's; ``epochs``, ``steps``, ``train_seconds``,
    ``parameters``, ``size`` (bytes on disk); ``problem``, why a run folder cannot be read.
    """

    root: Path
    rows: tuple[Row, ...]
    config_columns: frozenset[str] = field(repr=False)
    directions: dict[str, bool] = field(default_factory=dict, repr=False)
    """``higher_is_better`` of the metrics that the tasks of the runs state, by name."""

    @property
    def columns(self) -> list[str]:
        """All columns that a row has, in their order."""
        found = dict.fromkeys(column for row in self.rows for column in row)
        config = [column for column in found if column in self.config_columns]
        figures = [column for kind in FIGURES for column in found if column.startswith(kind)]
        about = [column for column in _ABOUT if column in found]
        return [*about, *config, *figures, *(column for column in (*COSTS, "problem") if column in found)]

    def overview(self) -> list[str]:
        """The columns that tell these runs apart: what differs in the configs, the figures that matter, the cost."""
        differs = [c for c in self.columns if c in self.config_columns and c not in _IN_THE_NAME and self._differs(c)]
        best = [c for c in self.columns if c.startswith("best/")]
        last = [c for name in best if (c := name.replace("best/", "last/")) in self.columns]
        rest = [c for c in ("epochs", "train_seconds", "parameters", "size", "problem") if self._has(c)]
        tested = [c.removeprefix("test/") for c in self.columns if c.startswith("test/")]
        shown = [f"test/{name}" for name in shown_in("runs", tested) if self._has(f"test/{name}")]
        return ["run", "status", *differs, *best, *last, *shown, *rest]

    def chosen(self, patterns: str) -> list[str]:
        """The columns that a list of names and globs means, in its order: ``"run,loss/*,val/acc"``.

        Raises:
            UserError: a word of the list is no column; the message names the nearest.
        """
        found: dict[str, None] = {}
        for word in (each.strip() for each in patterns.split(",")):
            matches = [column for column in self.columns if fnmatchcase(column, word)]
            if not matches:
                raise UserError(self._unknown("--columns", word))
            found |= dict.fromkeys(matches)
        return list(found)

    def filtered(self, condition: str) -> RunTable:
        """The rows that meet a condition: ``val/acc>0.9``, ``loss/name=focal``, ``status!=finished``, ``run=*lite0*``.

        A row that lacks the column meets only ``!=``. Text may hold globs.

        Raises:
            UserError: it is no condition, or on a column that no run has.
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
        """The same rows, the best first: the largest accuracy, the smallest loss, time or size; else upwards.

        Rows without the column come last, whatever ``reverse`` is.

        Raises:
            UserError: no run has the column.
        """
        if self.rows and column not in self.columns:
            raise UserError(self._unknown("--sort", column))
        falls = column.startswith(FIGURES) and mode_of(column, self.directions) == "max"
        has = [row for row in self.rows if row.get(column) is not None]
        lacks = [row for row in self.rows if row.get(column) is None]
        has.sort(key=lambda row: _rank(row[column]), reverse=falls != reverse)
        return replace(self, rows=(*has, *lacks))

    def limited(self, count: int) -> RunTable:
        """The first ``count`` rows."""
        return replace(self, rows=self.rows[:count])

    def _differs(self, column: str) -> bool:
        rows = [row for row in self.rows if row["status"] != "broken"]
        return any(row.get(column) != rows[0].get(column) for row in rows)

    def _has(self, column: str) -> bool:
        return any(row.get(column) is not None for row in self.rows)

    def _unknown(self, place: str, word: str) -> str:
        ends = [column for column in self.columns if column.endswith(f"/{word}")]
        near = f' Did you mean "{ends[0]}"?' if ends else suggestion(word, self.columns)
        return f'{place}: no run has a column "{word}".{near} `--columns "*"` shows all.'


def run_table(root: str | os.PathLike[str]) -> RunTable:
    """The table of the run folders at ``root`` and below it, in the order of their names.

    A run folder that cannot be read is listed with status ``broken`` and the reason in ``problem``. metrics.csv is read
    from its end, so that a thousand long runs are a matter of seconds.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"folder of runs not found: {root}")
    rows: list[Row] = []
    names: set[str] = set()
    directions: dict[str, bool] = {}
    with opening(root):
        for folder, run in open_runs(list(run_folders(root))).items():
            row, config = read_row(folder, root, run)
            rows.append(row)
            names |= config
            directions |= row.pop(HIGHER_IS_BETTER, {})
    return RunTable(root, tuple(rows), frozenset(names), directions)


def _condition(operator: str, text: str) -> Callable[[Any], bool]:
    wanted = yaml.parse_scalar(text)
    if operator in ("=", "==", "!="):
        same = operator != "!="
        return lambda value: _equal(value, wanted, text) is same
    if isinstance(wanted, bool) or not isinstance(wanted, int | float | str):
        raise UserError(f"--filter: {operator} compares with a number or a date, got {text!r}")
    compare: dict[str, Callable[[Any], bool]] = {
        ">": lambda value: value > wanted,
        "<": lambda value: value < wanted,
        ">=": lambda value: value >= wanted,
        "<=": lambda value: value <= wanted,
    }
    kinds: Any = str if isinstance(wanted, str) else int | float
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool) and compare[operator](value)


def _equal(value: Any, wanted: Any, text: str) -> bool:
    if isinstance(value, str):
        return fnmatchcase(value, text)
    return bool(value == wanted)


def _rank(value: Any) -> tuple[int, Any]:
    """Numbers by size, then text by its letters, then everything else by how it is written."""
    if isinstance(value, int | float):
        return (0, value)
    return (1, value) if isinstance(value, str) else (2, str(value))
