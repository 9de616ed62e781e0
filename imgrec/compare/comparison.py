"""Comparison of runs: differences of the configs, and paired tests of the accuracies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.compare.align import ComparedRun, SharedImages, align_predictions, find_finished_runs
from imgrec.compare.groups import IGNORED_COLUMNS, Group, group_runs
from imgrec.errors import UserError
from imgrec.runs.config import fill_defaults
from imgrec.runs.folder import RunFolder
from imgrec.runs.liveness import status_of
from imgrec.stats.paired import discordant, holm, mcnemar_exact, paired_bootstrap
from imgrec.stats.seeds import difference_over_seeds, estimate_false_positive_rate
from imgrec.trust import opening
from imgrec.utils.formatting import config_value

LEVEL = 0.05
"""Significance level of the adjusted p-values."""

_SPREAD_FACTOR = 3  # of the single run, relative to the group, in the warning about its false positive rate


@dataclass(frozen=True)
class PairComparison:
    """Two groups and the difference of their accuracies, first minus second, with its 95 % interval.

    Attributes:
        first: First group.
        second: Second group.
        difference: Difference of the mean accuracies, in [-1, 1].
        low: Lower end of its interval.
        high: Upper end of its interval.
        p: p-value of McNemar's exact test if both groups are single runs, otherwise of Student's t.
        adjusted: p-value adjusted by Holm for the number of pairs.
        exact: True if both groups are single runs.
        first_only: Number of images that every run of the first group and no run of the second classified correctly.
        second_only: Number of images that every run of the second group and no run of the first classified correctly.
    """

    first: Group
    second: Group
    difference: float
    low: float
    high: float
    p: float
    adjusted: float
    exact: bool
    first_only: int
    second_only: int

    @property
    def better(self) -> Group | None:
        """The better group, or ``None`` if the difference is not significant."""
        if self.adjusted >= LEVEL:
            return None
        return self.first if self.difference > 0 else self.second

    @property
    def verdict(self) -> str:
        """Result of the test in a few words."""
        return "not distinguishable" if self.better is None else f"{self.better.name} is better"

    @property
    def _p(self) -> str:
        return f"{'p' if self.adjusted == self.p else 'adjusted p'} {p_value_text(self.adjusted)}"

    @property
    def single_run(self) -> Group | None:
        """The group that is a single run, if the other group has several. Its spread over seeds is unknown."""
        single = [group for group in (self.first, self.second) if len(group.runs) == 1]
        return single[0] if len(single) == 1 else None

    @property
    def sentence(self) -> str:
        """Result of the test in one sentence, and a second sentence if its false positive rate is unknown."""
        if self.single_run is None:
            return self._sentence
        return f"{self._sentence} {self.single_run.name} is one run: see the warning about its spread over seeds."

    @property
    def _sentence(self) -> str:
        low, high = f"{100 * self.low:+.2f}", f"{100 * self.high:+.2f}"
        if self.better is None:
            return (
                f"{self.first.name} and {self.second.name} are not distinguishable: the difference is "
                f"{100 * self.difference:+.2f} points (95 % interval {low} to {high}, {self._p})."
            )
        worse = self.second if self.better is self.first else self.first
        if self.better is self.second:
            low, high = f"{-100 * self.high:+.2f}", f"{-100 * self.low:+.2f}"
        return (
            f"{self.better.name} is better than {worse.name} by {100 * abs(self.difference):.2f} points "
            f"(95 % interval {low} to {high}, {self._p})."
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """Result of :func:`compare_runs`.

    Attributes:
        split: Split of the predictions.
        images: Images of the comparison.
        groups: Groups of runs.
        pairs: Comparison of every pair of groups.
        differences: Different values in the configs and environments: the text of every group, by column.
        notes: Warnings and remarks for the reader, one sentence or more each.
    """

    split: str
    images: SharedImages
    groups: tuple[Group, ...]
    pairs: tuple[PairComparison, ...]
    differences: dict[str, list[str]]
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[ComparedRun]:
        """All runs, by group."""
        return [run for group in self.groups for run in group.runs]

    def __repr__(self) -> str:
        names = ", ".join(f"{group.name} ({len(group.runs)})" for group in self.groups)
        return f"<Comparison on {len(self.images):,} {self.split} images: {names}>"

    def _repr_markdown_(self) -> str:
        from imgrec.compare.text import to_markdown

        return to_markdown(self)


def compare_runs(
    runs: Iterable[str | Path | RunFolder], *, group_by: str = "auto", split: str = "test", shared: bool = False
) -> Comparison:
    """Compare runs by their predictions of the same images.

    Two single runs are compared by McNemar's exact test and the paired bootstrap interval. Groups of runs with
    different seeds are compared by the difference of their mean accuracies over the choice of seeds and images
    (:func:`~imgrec.stats.seeds.difference_over_seeds`). The p-values are adjusted for the number of pairs by Holm.

    Args:
        runs: Run folders, and folders of runs. A folder of runs specifies the finished runs in it.
        group_by: ``auto``, ``none``, ``experiment`` or a config column. See
            :func:`~imgrec.compare.groups.group_runs`. Defaults to ``auto``.
        split: ``test``, ``val``, or ``evaluations/<name>`` of `imgrec evaluate`. Defaults to ``test``.
        shared: If True, use only the images that all runs have predictions for. Defaults to False.

    Returns:
        The comparison, which a notebook displays as tables.

    Raises:
        UserError: If there are fewer than two runs, or their predictions do not match.

    Example:
        >>> imgrec.compare_runs(["runs/cifar10"], group_by="loss/name")  # doctest: +SKIP
        <Comparison on 10,000 test images: focal (3), cross_entropy (3)>
    """
    with opening("compare"):
        return _compare(runs, group_by, split, shared)


def _compare(runs: Iterable[str | Path | RunFolder], group_by: str, split: str, shared: bool) -> Comparison:
    folders, unfinished = find_finished_runs(runs)
    if len(folders) < 2:
        raise UserError(f"runs: expected at least 2 runs, got {len(folders)}. Usage: imgrec compare RUN RUN")
    fill_defaults(folders)
    images, compared = align_predictions(folders, split, shared)
    groups = group_runs(compared, group_by)
    notes = list(_notes(groups, images, unfinished, split))
    return Comparison(split, images, tuple(groups), tuple(_pairs(groups)), _differences(groups), tuple(notes))


def p_value_text(p: float) -> str:
    """Format a p-value with its relation sign.

    >>> p_value_text(0.0123), p_value_text(1e-9)
    ('= 0.012', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _pairs(groups: Sequence[Group]) -> list[PairComparison]:
    found: list[dict[str, Any]] = []
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            counts = {
                "first_only": int(all_and_none_correct(first.correct, second.correct).sum()),
                "second_only": int(all_and_none_correct(second.correct, first.correct).sum()),
            }
            found.append({"first": first, "second": second} | counts | _test(first.correct, second.correct))
    adjusted = holm([pair["p"] for pair in found])
    return [PairComparison(**pair, adjusted=value) for pair, value in zip(found, adjusted, strict=True)]


def _test(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    if len(first) == len(second) == 1:
        low, high = paired_bootstrap(first[0], second[0])
        counts = discordant(first[0], second[0])
        difference = (counts[0] - counts[1]) / first.shape[1]
        return {"difference": difference, "low": low, "high": high, "p": mcnemar_exact(*counts), "exact": True}
    found = difference_over_seeds(first, second)
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p, "exact": False}


def all_and_none_correct(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of the images that all runs of the first group and no run of the second classified correctly.

    Args:
        first: Booleans of shape ``(runs, N)``: True if the run classified the image correctly.
        second: Booleans of shape ``(runs, N)`` of the second group.
    """
    return np.asarray(first.all(axis=0) & ~second.any(axis=0))


def _differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    columns = dict.fromkeys(c for group in groups for run in group.runs for c in run.config)
    for column in columns:
        cells = [_values_text(group.values(column)) for group in groups]
        if column not in IGNORED_COLUMNS and len(set(cells)) > 1:
            rows[column] = cells
    environments = [[_environment(run) for run in group.runs] for group in groups]
    for name in dict.fromkeys(name for group in environments for facts in group for name in facts):
        cells = [_values_text(list(dict.fromkeys(facts.get(name) for facts in group))) for group in environments]
        if len(set(cells)) > 1:
            rows[name] = cells
    return rows


def _values_text(values: Sequence[Any]) -> str:
    shown = [config_value(value) for value in values[:3]]
    return "; ".join([*shown, f"{len(values) - 3} more"] if len(values) > 3 else shown)


def _environment(run: ComparedRun) -> dict[str, str]:
    """Return versions, commit, data fingerprint and hardware of a run."""
    environment = run.run.environment
    versions, hardware = environment.get("versions") or {}, environment.get("hardware") or {}
    git = environment.get("git") or {}
    gpus = ", ".join(str(gpu.get("name")) for gpu in hardware.get("gpus") or [])
    facts = {f"version of {name}": version for name, version in versions.items()}
    facts |= {"commit": str(git.get("commit") or "")[:10], "data": environment.get("data_fingerprint")}
    facts |= {"device": gpus or hardware.get("cpu"), "CPU cores": hardware.get("cores")}
    facts |= {"CPU threads": hardware.get("threads")}
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _single_run_warning(single: Sequence[Group], several: Sequence[Group]) -> str:
    """Return the warning that a single run is tested with the spread of a group, with the false positive rate."""
    pairs = [(one, group, _SPREAD_FACTOR * (group.spread or 0.0)) for one in single for group in several]
    rates = [estimate_false_positive_rate(group.correct, one.correct, spread) for one, group, spread in pairs]
    rate, (one, group, spread) = max(zip(rates, pairs, strict=True), key=lambda found: found[0])
    return (
        f"Warning: one run only: {', '.join(each.name for each in single)}. Its spread over seeds is unknown, and the "
        f"test assumes that of the group. Suppose that {one.name} has a spread of {100 * spread:.2f} points, "
        f"{_SPREAD_FACTOR} times that of {group.name}. The test is then wrong in {100 * rate:.0f} of 100 comparisons "
        "of equal recipes instead of 5. Train more seeds before a decision."
    )


def _notes(groups: Sequence[Group], images: SharedImages, unfinished: Sequence[Path], split: str) -> Iterable[str]:
    if unfinished:
        names = ", ".join(path.name for path in unfinished[:5]) + ("…" if len(unfinished) > 5 else "")
        yield f"Excluded unfinished runs: {len(unfinished)} ({names})."
    if images.num_excluded:
        yield f"Compared on the {len(images):,} common images of all runs. {images.num_excluded:,} others are excluded."
    for group in groups:
        seeds = [run.seed for run in group.runs]
        twice = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
        if twice:
            yield (
                f"{group.name} contains several runs of the seed {', '.join(twice)}. Runs with equal configs and equal "
                "seeds are not independent."
            )
        for run in group.runs:
            if run.num_nonfinite:
                yield f"{run.name}: the logits of {run.num_nonfinite:,} images are not finite and count as incorrect."
            if (status := status_of(run.run)) != "finished":
                yield f"{run.name} is not finished: {status}."
    single = [group for group in groups if len(group.runs) == 1]
    if single and len(single) < len(groups):
        yield _single_run_warning(single, [group for group in groups if len(group.runs) > 1])
    elif single:
        yield "Every group is one run: the tests compare these trained models, not their recipes."
    if split == "val":
        yield "The checkpoints were selected on the validation images: these figures are slightly too high."
