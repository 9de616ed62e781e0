"""Groups of runs of one recipe with different seeds, and their names."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.compare.align import ComparedRun
from imgrec.errors import UserError, suggestion
from imgrec.runs.config import as_column, config_differences, matches_column
from imgrec.stats.intervals import wilson_interval
from imgrec.utils.formatting import config_value

SEED = "seed_everything"
IGNORED_COLUMNS = (SEED, "experiment", "runs")
"""Config columns that are not part of a recipe: the seed, and the folder of the run."""

_GROUPINGS = ("auto", "none", "experiment")
_MAX_COLUMNS = 3  # in the name of a group


@dataclass(frozen=True, eq=False)
class Group:
    """One or more runs of one recipe.

    Attributes:
        name: Name of the group, different from that of all others.
        runs: Runs of the group.
    """

    name: str
    runs: tuple[ComparedRun, ...]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Booleans of shape ``(runs, images)``: True if the run classified the image correctly."""
        return np.stack([run.correct for run in self.runs])

    @property
    def accuracy(self) -> float:
        """Mean accuracy of the runs."""
        return float(np.mean([run.accuracy for run in self.runs]))

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracies of the runs. ``None`` for a single run."""
        return float(np.std([run.accuracy for run in self.runs], ddof=1)) if len(self.runs) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the accuracy of a single run. ``None`` for several runs, which have a spread."""
        return wilson_interval(int(self.correct.sum()), self.correct.size) if len(self.runs) == 1 else None

    def mean(self, figure: str) -> float | None:
        """Return the mean over the runs of ``nll``, ``ece``, a custom metric or a number of the summary.

        ``None`` if a run lacks it.
        """
        found = [
            run.custom[figure]
            if figure in run.custom
            else getattr(run, figure)
            if hasattr(run, figure)
            else run.summary.get(figure)
            for run in self.runs
        ]
        known = [float(value) for value in found if isinstance(value, int | float) and np.isfinite(value)]
        return float(np.mean(known)) if len(known) == len(self.runs) else None

    def values(self, column: str) -> list[Any]:
        """Return the different values of a config column, in the order of the runs. ``None`` if a run lacks it."""
        found: list[Any] = []
        for run in self.runs:
            value = run.config.get(column)
            if value not in found:
                found.append(value)
        return found


def group_runs(runs: Sequence[ComparedRun], group_by: str = "auto") -> list[Group]:
    """Group runs by recipe, in the given order.

    Args:
        runs: Runs to group.
        group_by: One of the following. Defaults to ``auto``.

            - ``auto``: one group for all runs of an experiment whose configs differ only in the seed.
            - ``none``: one group per run.
            - ``experiment``: one group per experiment.
            - A column of the config, such as ``loss/name``, or the prefix of columns, such as ``data/sampler``. A
              dotted key, ``data.sampler``, is equivalent.

    Raises:
        UserError: If no run has such a column.
    """
    flat = [run.config for run in runs]
    columns = dict.fromkeys(column for row in flat for column in row)
    by = group_by if group_by in _GROUPINGS else as_column(group_by)
    selected = [column for column in columns if matches_column(by, [column])]
    if by not in _GROUPINGS and not selected:
        prefixes = {"/".join(parts[:n]) for c in columns for parts in [c.split("/")] for n in range(1, len(parts) + 1)}
        raise UserError(
            f"--group-by: expected {', '.join(_GROUPINGS)}, or a column of the config such as loss/name, got "
            f'"{by}".{suggestion(by, [*sorted(prefixes), *_GROUPINGS])}'
        )
    keys = [_key(run, row, by, selected, i) for i, (run, row) in enumerate(zip(runs, flat, strict=True))]
    found: dict[str, list[ComparedRun]] = {}
    for key, run in zip(keys, runs, strict=True):
        found.setdefault(key, []).append(run)
    members = list(found.values())
    if by == "none":
        names = _run_names(runs)
    elif by in _GROUPINGS:
        names = _recipe_names(members)
    else:
        names = _column_names([group[0].config for group in members], by, selected)
    return [Group(name, tuple(group)) for name, group in zip(_numbered(names), members, strict=True)]


def _key(run: ComparedRun, row: dict[str, Any], by: str, columns: Sequence[str], index: int) -> str:
    if by == "none":
        return str(index)
    if by == "experiment":
        return run.run.experiment
    if by == "auto":
        recipe = {column: value for column, value in row.items() if column not in IGNORED_COLUMNS}
        return json.dumps([run.run.experiment, recipe], sort_keys=True, default=str)
    return json.dumps({column: row.get(column) for column in columns}, sort_keys=True, default=str)


def _run_names(runs: Sequence[ComparedRun]) -> list[str]:
    """Return experiment and seed of every run if all pairs differ, otherwise the run ids."""
    by_seed = [f"{run.run.experiment}, seed {run.seed}" for run in runs]
    if len(set(by_seed)) == len(runs):
        return by_seed
    is_one_experiment = len({run.run.experiment for run in runs}) == 1
    return [run.run.run_id if is_one_experiment else run.name for run in runs]


def _recipe_names(groups: Sequence[Sequence[ComparedRun]]) -> list[str]:
    """Return the experiments, with the differences of the configs if an experiment has several recipes."""
    experiments = strip_common_folders([group[0].run.experiment for group in groups])
    names = []
    for experiment, group in zip(experiments, groups, strict=True):
        recipes = {str(i): g[0].run.recipe for i, g in enumerate(groups) if experiments[i] == experiment}
        columns = (
            [column for column in config_differences(recipes) if column not in IGNORED_COLUMNS]
            if len(recipes) > 1
            else []
        )
        values = _values_text(columns, group[0].config)
        names.append(f"{experiment} ({', '.join(values)})" if values else experiment)
    return names


def _values_text(columns: Sequence[str], row: dict[str, Any]) -> list[str]:
    """Return the values of a few columns as text. For specs with different names, only the names."""
    named = [column.removesuffix("/name") for column in columns if column.endswith("/name")]
    shown = [c for c in columns if c.endswith("/name") or not any(matches_column(spec, [c]) for spec in named)]
    words = [f"{c.removesuffix('/name')} {config_value(row.get(c))}" for c in shown[:_MAX_COLUMNS]]
    return words + ["…"] * (len(shown) > _MAX_COLUMNS)


def _column_names(rows: Sequence[dict[str, Any]], by: str, columns: Sequence[str]) -> list[str]:
    """Return names of groups by a column or a spec: ``focal, gamma 2``, ``no sampler``, ``batch_size 64``."""
    last = by.removesuffix("/name").rpartition("/")[2]
    is_spec = f"{by}/name" in columns
    if not is_spec and list(columns) == [by]:
        bare = by.endswith("/name")
        return [config_value(row.get(by)) if bare else f"{last} {config_value(row.get(by))}" for row in rows]
    heads = [str(row.get(f"{by}/name") or row.get(by) or f"no {last}") if is_spec else last for row in rows]
    names = []
    for head, row in zip(heads, rows, strict=True):
        same = [other for name, other in zip(heads, rows, strict=True) if name == head]
        differ = [c for c in columns if any(other.get(c) != same[0].get(c) for other in same)]
        values = [f"{c.removeprefix(f'{by}/')} {config_value(row.get(c))}" for c in differ[:_MAX_COLUMNS]]
        names.append(", ".join([head, *values, *["…"] * (len(differ) > _MAX_COLUMNS)]))
    return names


def strip_common_folders(names: Sequence[str]) -> list[str]:
    """Strip the leading folders that the names of all experiments share.

    >>> strip_common_folders(["cifar10/fast", "cifar10/long/fast"]), strip_common_folders(["cifar10/fast"] * 2)
    (['fast', 'long/fast'], ['cifar10/fast', 'cifar10/fast'])
    """
    parts = [name.split("/") for name in names]
    shared = 0
    while len(set(names)) > 1 and all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ["/".join(p[shared:]) for p in parts]


def _numbered(names: Sequence[str]) -> list[str]:
    """Return the names, with a number after names that occur several times."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(f"{name} #{seen[name]}" if names.count(name) > 1 else name)
    return found
