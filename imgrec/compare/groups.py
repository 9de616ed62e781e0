"""Which of the compared runs are one recipe with several seeds, and what the recipes are called."""

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
from imgrec.runs.flat_config import as_column, covers, differing
from imgrec.stats.intervals import wilson_interval
from imgrec.utils.formatting import config_value

SEED = "seed_everything"
NOT_ABOUT = (SEED, "experiment", "runs")
"""Config columns that do not make another recipe: the draw, and where the run is kept."""

_WAYS = ("auto", "none", "experiment")
_IN_A_NAME = 3  # config columns


@dataclass(frozen=True, eq=False)
class Group:
    """One or more runs that count as one recipe.

    Shapes: ``correct`` bool ``(R, N)``: whether each of R runs named each of N images correctly.
    """

    name: str
    runs: tuple[ComparedRun, ...]

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """Run by run, image by image."""
        return np.stack([run.correct for run in self.runs])

    @property
    def accuracy(self) -> float:
        """The mean over the runs."""
        return float(np.mean([run.accuracy for run in self.runs]))

    @property
    def spread(self) -> float | None:
        """The standard deviation of the runs' accuracies; ``None`` for one run."""
        return float(np.std([run.accuracy for run in self.runs], ddof=1)) if len(self.runs) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Wilson's 95 % interval of the accuracy of a single run; ``None`` for several, whose spread says more."""
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
        """The different values that a config column has among the runs, in their order; ``None`` where absent."""
        found: list[Any] = []
        for run in self.runs:
            value = run.config.get(column)
            if value not in found:
                found.append(value)
        return found


def grouped(runs: Sequence[ComparedRun], by: str = "auto") -> list[Group]:
    """The groups of the runs, in the order in which they were given.

    Args:
        runs: the runs.
        by: ``auto``: runs of one experiment whose configs differ in the seed only; ``none``: every run by itself;
            ``experiment``; a column of the config, ``loss/name``; or the beginning of columns, ``data/sampler``, which
            stands for all columns below it. A dotted key, ``data.sampler``, means the same.

    Raises:
        UserError: If no run has such a column.
    """
    flat = [run.config for run in runs]
    columns = dict.fromkeys(column for row in flat for column in row)
    by = by if by in _WAYS else as_column(by)
    chosen = [column for column in columns if covers(by, [column])]
    if by not in _WAYS and not chosen:
        prefixes = {"/".join(parts[:n]) for c in columns for parts in [c.split("/")] for n in range(1, len(parts) + 1)}
        raise UserError(
            f'--group-by: no run has a column "{by}".{suggestion(by, [*sorted(prefixes), *_WAYS])} '
            f"Accepted: {', '.join(_WAYS)}, or a column of the config such as loss/name or loss."
        )
    keys = [_key(run, row, by, chosen, place) for place, (run, row) in enumerate(zip(runs, flat, strict=True))]
    found: dict[str, list[ComparedRun]] = {}
    for key, run in zip(keys, runs, strict=True):
        found.setdefault(key, []).append(run)
    members = list(found.values())
    if by == "none":
        names = _run_names(runs)
    elif by in _WAYS:
        names = _recipe_names(members)
    else:
        names = _column_names([group[0].config for group in members], by, chosen)
    return [Group(name, tuple(group)) for name, group in zip(_unlike(names), members, strict=True)]


def _key(run: ComparedRun, row: dict[str, Any], by: str, chosen: Sequence[str], place: int) -> str:
    if by == "none":
        return str(place)
    if by == "experiment":
        return run.run.experiment
    if by == "auto":
        recipe = {column: value for column, value in row.items() if column not in NOT_ABOUT}
        return json.dumps([run.run.experiment, recipe], sort_keys=True, default=str)
    return json.dumps({column: row.get(column) for column in chosen}, sort_keys=True, default=str)


def _run_names(runs: Sequence[ComparedRun]) -> list[str]:
    """Experiment and seed where no two runs share both, else the run ids."""
    by_seed = [f"{run.run.experiment}, seed {run.seed}" for run in runs]
    if len(set(by_seed)) == len(runs):
        return by_seed
    one = len({run.run.experiment for run in runs}) == 1
    return [run.run.run_id if one else run.name for run in runs]


def _recipe_names(groups: Sequence[Sequence[ComparedRun]]) -> list[str]:
    """The experiments; where one stands for several recipes, with what tells these apart."""
    experiments = without_common_folders([group[0].run.experiment for group in groups])
    names = []
    for own, group in zip(experiments, groups, strict=True):
        alike = {str(i): g[0].run.recipe for i, g in enumerate(groups) if experiments[i] == own}
        columns = [column for column in differing(alike) if column not in NOT_ABOUT] if len(alike) > 1 else []
        about = _in_short(columns, group[0].config)
        names.append(f"{own} ({', '.join(about)})" if about else own)
    return names


def _in_short(columns: Sequence[str], row: dict[str, Any]) -> list[str]:
    """Return the values of a few columns in words; of specs with different names, the names alone."""
    named = [column.removesuffix("/name") for column in columns if column.endswith("/name")]
    shown = [c for c in columns if c.endswith("/name") or not any(covers(spec, [c]) for spec in named)]
    words = [f"{c.removesuffix('/name')} {config_value(row.get(c))}" for c in shown[:_IN_A_NAME]]
    return words + ["…"] * (len(shown) > _IN_A_NAME)


def _column_names(rows: Sequence[dict[str, Any]], by: str, chosen: Sequence[str]) -> list[str]:
    """Return names of groups by a column or a spec: ``focal, gamma 2``, ``no sampler``, ``batch_size 64``."""
    last = by.removesuffix("/name").rpartition("/")[2]
    spec = f"{by}/name" in chosen
    if not spec and list(chosen) == [by]:
        bare = by.endswith("/name")
        return [config_value(row.get(by)) if bare else f"{last} {config_value(row.get(by))}" for row in rows]
    heads = [str(row.get(f"{by}/name") or row.get(by) or f"no {last}") if spec else last for row in rows]
    names = []
    for head, row in zip(heads, rows, strict=True):
        alike = [each for own, each in zip(heads, rows, strict=True) if own == head]
        differ = [c for c in chosen if any(each.get(c) != alike[0].get(c) for each in alike)]
        about = [f"{c.removeprefix(f'{by}/')} {config_value(row.get(c))}" for c in differ[:_IN_A_NAME]]
        names.append(", ".join([head, *about, *["…"] * (len(differ) > _IN_A_NAME)]))
    return names


def without_common_folders(names: Sequence[str]) -> list[str]:
    """Names of experiments without the leading folders that all of them share.

    >>> without_common_folders(["cifar10/fast", "cifar10/long/fast"]), without_common_folders(["cifar10/fast"] * 2)
    (['fast', 'long/fast'], ['cifar10/fast', 'cifar10/fast'])
    """
    parts = [name.split("/") for name in names]
    shared = 0
    while len(set(names)) > 1 and all(len(p) > shared + 1 for p in parts) and len({p[shared] for p in parts}) == 1:
        shared += 1
    return ["/".join(p[shared:]) for p in parts]


def _unlike(names: Sequence[str]) -> list[str]:
    """The names, numbered where one stands more than once."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(f"{name} #{seen[name]}" if names.count(name) > 1 else name)
    return found
