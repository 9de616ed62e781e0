"""Which of the compared runs are one recipe with several seeds, and what the recipes are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError, suggestion
from imgrec.evaluate.intervals import wilson_interval
from imgrec.runs.compared import ComparedRun
from imgrec.runs.flat import differing
from imgrec.runs.text import config_value

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
        """The mean over the runs of ``nll``, ``ece``, or a number of the summary; ``None`` where a run lacks it."""
        found = [getattr(run, figure) if hasattr(run, figure) else run.summary.get(figure) for run in self.runs]
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
            ``experiment``; or a column of the config, ``loss/name``.

    Raises:
        UserError: no run has the column.
    """
    flat = [run.config for run in runs]
    columns = dict.fromkeys(column for row in flat for column in row)
    if by not in (*_WAYS, *columns):
        raise UserError(
            f'--group-by: no run has a column "{by}".{suggestion(by, [*columns, *_WAYS])} '
            f"Accepted: {', '.join(_WAYS)}, or a column of the config such as loss/name."
        )
    keys = [_key(run, row, by, place) for place, (run, row) in enumerate(zip(runs, flat, strict=True))]
    found: dict[str, list[ComparedRun]] = {}
    for key, run in zip(keys, runs, strict=True):
        found.setdefault(key, []).append(run)
    members = list(found.values())
    if by == "none":
        names = _run_names(runs)
    elif by in _WAYS:
        names = _recipe_names(members)
    else:
        names = [config_value(group[0].config.get(by)) for group in members]
    return [Group(name, tuple(group)) for name, group in zip(_unlike(names), members, strict=True)]


def _key(run: ComparedRun, row: dict[str, Any], by: str, place: int) -> str:
    if by == "none":
        return str(place)
    if by == "experiment":
        return run.run.experiment
    if by == "auto":
        recipe = {column: value for column, value in row.items() if column not in NOT_ABOUT}
        return json.dumps([run.run.experiment, recipe], sort_keys=True, default=str)
    return json.dumps(row.get(by), sort_keys=True, default=str)


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
        flat = group[0].config
        about = [f"{column} {config_value(flat.get(column))}" for column in columns[:_IN_A_NAME]]
        about += ["…"] * (len(columns) > _IN_A_NAME)
        names.append(f"{own} ({', '.join(about)})" if about else own)
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
