"""A run folder as one row of a table, read in a few milliseconds; one that is broken is a row, too."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from imgrec.errors import UserError
from imgrec.metrics.names import mode_of
from imgrec.runs.evaluations import read_evaluations
from imgrec.runs.flat_config import flat_config
from imgrec.runs.folder import CONFIG, ENVIRONMENT, RunFolder
from imgrec.runs.liveness import status_of
from imgrec.runs.specs import fill_defaults
from imgrec.runs.summary import HIGHER_IS_BETTER, SUMMARY
from imgrec.trust import reading

Row = dict[str, Any]
"""What a table says of one run, by column; a column that the run lacks is absent."""

FIGURES = ("best/", "val/", "test/", "evaluations/", "last/")
COSTS = ("epochs", "steps", "train_seconds", "parameters", "size")

_SPLITS = ("val", "test")
_TAIL = 65_536  # bytes: the last rows of metrics.csv; a row has a few hundred


def run_folders(folder: Path, depth: int = 8) -> Iterator[Path]:
    """The folders at ``folder`` and below it where a run has been: they hold what only runs leave, whole or not."""
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    names = {entry.name for entry in inside}
    if ENVIRONMENT in names or {CONFIG, SUMMARY} <= names or {CONFIG, "metrics.csv"} <= names:
        yield folder
    elif depth:
        for entry in inside:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from run_folders(Path(entry.path), depth - 1)


def open_runs(folders: Sequence[Path]) -> dict[Path, RunFolder | UserError | OSError]:
    """Return the run in each folder with its config read, defaults filled in; or why it cannot be read."""
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
    """Return one run, named by its path below ``root``, and the names of the columns of its config."""
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
            row |= _figures(run, summary)
            row["status"] = status_of(run)
    except (UserError, OSError) as error:
        row["problem"] = str(error).replace(f"{folder}{os.sep}", "").replace(f"{folder} ", "")
    row["size"] = _size(folder)
    return row, frozenset(config)


def _figures(run: RunFolder, summary: dict[str, Any]) -> Row:
    row: Row = {}
    metric = str(summary.get("monitor") or "val/acc")
    best = summary.get("best_score")
    if best is None and run.metrics_file.is_file():  # it trains still, or stopped early
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
    row |= {f"last/{name}": value for name, value in _last_values(run.metrics_file).items()}
    row[HIGHER_IS_BETTER] = summary.get(HIGHER_IS_BETTER) or {}
    return row | {name: summary[name] for name in COSTS if summary.get(name) is not None}


def _last_values(path: Path) -> dict[str, float]:
    """The last value of each metric of training and validation that the end of metrics.csv holds."""
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        header = file.readline()
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _TAIL))
        tail = file.read()
    lines = tail.split(b"\n")[1 if end - _TAIL > start else 0 : -1]  # whole lines only
    names = next(csv.reader([header.decode()]), [])
    wanted = {i: name for i, name in enumerate(names) if name.startswith(("train/", "val/"))}
    found: dict[str, float] = {}
    for cells in csv.reader(line.decode() for line in reversed(lines)):
        for i in list(wanted):
            if i < len(cells) and cells[i]:
                found[wanted.pop(i)] = _number(cells[i], path)
        if not wanted:
            break
    return {name: found[name] for name in names if name in found}


def _number(cell: str, path: Path) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _size(folder: Path) -> int:
    total = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                total += _size(Path(entry.path))
            else:
                total += entry.stat(follow_symlinks=False).st_size
    return total
