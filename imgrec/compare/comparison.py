"""Runs side by side: what differs in them, and whether what came out differs by more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.compare.align import ComparedRun, Images, align, find_compared
from imgrec.compare.groups import NOT_ABOUT, Group, grouped
from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder
from imgrec.runs.liveness import status_of
from imgrec.runs.specs import fill_defaults
from imgrec.stats.paired import discordant, holm, mcnemar_exact, paired_bootstrap
from imgrec.stats.seeds import difference_over_seeds, estimate_false_positive_rate
from imgrec.trust import opening
from imgrec.utils.formatting import config_value

_LARGER = 3
"""The spread over seeds of a single run's recipe, in spreads of the group, for which the warning has a rate."""
LEVEL = 0.05
"""The adjusted p-value below which two groups are called different."""


@dataclass(frozen=True)
class Pair:
    """Two groups and the difference of their accuracies, first minus second, with its 95 % interval.

    ``p`` is of McNemar's exact test where both groups are single runs (``exact``), else of Student's t over seeds and
    images; ``adjusted`` is Holm's, for the number of pairs. ``first_only`` counts the images that every run of the
    first group and no run of the second named correctly; ``second_only`` the other way round.
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
        """The better group, or ``None`` where the two are not distinguishable."""
        if self.adjusted >= LEVEL:
            return None
        return self.first if self.difference > 0 else self.second

    @property
    def verdict(self) -> str:
        """The same in words."""
        return "not distinguishable" if self.better is None else f"{self.better.name} is better"

    @property
    def _p(self) -> str:
        return f"{'p' if self.adjusted == self.p else 'adjusted p'} {p_text(self.adjusted)}"

    @property
    def single(self) -> Group | None:
        """The group that is a single run, if the other one is not; its spread over seeds is unknown."""
        one = [group for group in (self.first, self.second) if len(group.runs) == 1]
        return one[0] if len(one) == 1 else None

    @property
    def sentence(self) -> str:
        """The same in one sentence with its figures, and a second one if its rate of errors is in doubt."""
        if self.single is None:
            return self._sentence
        return f"{self._sentence} {self.single.name} is one run: see the warning on its spread over seeds."

    @property
    def _sentence(self) -> str:
        low, high = f"{100 * self.low:+.2f}", f"{100 * self.high:+.2f}"
        if self.better is None:
            return (
                f"{self.first.name} and {self.second.name} are not distinguishable: the difference is "
                f"{100 * self.difference:+.2f} points (95 % interval {low} to {high}; {self._p})."
            )
        worse = self.second if self.better is self.first else self.first
        if self.better is self.second:
            low, high = f"{-100 * self.high:+.2f}", f"{-100 * self.low:+.2f}"
        return (
            f"{self.better.name} is better than {worse.name} by {100 * abs(self.difference):.2f} points "
            f"(95 % interval {low} to {high}; {self._p})."
        )


@dataclass(frozen=True, eq=False)
class Comparison:
    """What :func:`compare_runs` found.

    ``differences`` holds what differs in the configs and the environments: a column, and for each group its value in
    words. ``notes`` are sentences on what a reader has to know.
    """

    split: str
    images: Images
    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    differences: dict[str, list[str]]
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[ComparedRun]:
        """All runs, group by group."""
        return [run for group in self.groups for run in group.runs]

    def __repr__(self) -> str:
        names = ", ".join(f"{group.name} ({len(group.runs)})" for group in self.groups)
        return f"<Comparison on {len(self.images):,} {self.split} images: {names}>"

    def _repr_markdown_(self) -> str:
        from imgrec.compare.text import as_markdown

        return as_markdown(self)


def compare_runs(
    runs: Iterable[str | Path | RunFolder], *, group_by: str = "auto", split: str = "test", shared: bool = False
) -> Comparison:
    """Compare runs by what they said of the same images.

    Two single runs: McNemar's exact test and the paired bootstrap's interval. Groups of runs with different seeds: the
    difference of the mean accuracies over other seeds and other images like these
    (:func:`~imgrec.stats.seeds.difference_over_seeds`). The p-values are adjusted for the number of pairs by Holm.

    Args:
        runs: run folders, and folders of runs, which stand for the finished runs below them.
        group_by: ``auto``, ``none``, ``experiment`` or a config column, as in :func:`~imgrec.compare.groups.grouped`.
        split: ``test``, ``val``, or ``evaluations/<name>`` of `imgrec evaluate`.
        shared: compare on the images that all runs share, where they were not tested on the same ones.

    Raises:
        UserError: the runs cannot be compared; the message says why.
    """
    with opening("compare"):
        return _compare(runs, group_by, split, shared)


def _compare(runs: Iterable[str | Path | RunFolder], group_by: str, split: str, shared: bool) -> Comparison:
    folders, unfinished = find_compared(runs)
    if len(folders) < 2:
        raise UserError(f"compare takes two runs or more, got {len(folders)}: imgrec compare RUN RUN")
    fill_defaults(folders)
    images, compared = align(folders, split, shared)
    groups = grouped(compared, group_by)
    notes = list(_notes(groups, images, unfinished, split))
    return Comparison(split, images, tuple(groups), tuple(_pairs(groups)), _differences(groups), tuple(notes))


def p_text(p: float) -> str:
    """A p-value after the letter p.

    >>> p_text(0.0123), p_text(1e-9)
    ('= 0.012', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _pairs(groups: Sequence[Group]) -> list[Pair]:
    found: list[dict[str, Any]] = []
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            ours, theirs = _sure(first.correct, second.correct), _sure(second.correct, first.correct)
            pair = {"first": first, "second": second, "first_only": int(ours.sum()), "second_only": int(theirs.sum())}
            found.append(pair | _tested(first.correct, second.correct))
    adjusted = holm([pair["p"] for pair in found])
    return [Pair(**pair, adjusted=value) for pair, value in zip(found, adjusted, strict=True)]


def _tested(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    if len(first) == len(second) == 1:
        low, high = paired_bootstrap(first[0], second[0])
        counts = discordant(first[0], second[0])
        difference = (counts[0] - counts[1]) / first.shape[1]
        return {"difference": difference, "low": low, "high": high, "p": mcnemar_exact(*counts), "exact": True}
    found = difference_over_seeds(first, second)
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p, "exact": False}


def _sure(right: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The images that all runs of one group named correctly and none of the other."""
    return np.asarray(right.all(axis=0) & ~wrong.any(axis=0))


def _differences(groups: Sequence[Group]) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {}
    columns = dict.fromkeys(c for group in groups for run in group.runs for c in run.config)
    for column in columns:
        cells = [_in_words(group.values(column)) for group in groups]
        if column not in NOT_ABOUT and len(set(cells)) > 1:
            rows[column] = cells
    around = [[_surroundings(run) for run in group.runs] for group in groups]
    for name in dict.fromkeys(name for group in around for facts in group for name in facts):
        cells = [_in_words(list(dict.fromkeys(facts.get(name) for facts in group))) for group in around]
        if len(set(cells)) > 1:
            rows[name] = cells
    return rows


def _in_words(values: Sequence[Any]) -> str:
    shown = [config_value(value) for value in values[:3]]
    return "; ".join([*shown, f"{len(values) - 3} more"] if len(values) > 3 else shown)


def _surroundings(run: ComparedRun) -> dict[str, str]:
    """What a run stood on, and what its time depends on."""
    environment = run.run.environment
    versions, hardware = environment.get("versions") or {}, environment.get("hardware") or {}
    git = environment.get("git") or {}
    gpus = ", ".join(str(gpu.get("name")) for gpu in hardware.get("gpus") or [])
    facts = {f"version of {name}": version for name, version in versions.items()}
    facts |= {"commit": str(git.get("commit") or "")[:10], "data": environment.get("data_fingerprint")}
    facts |= {"device": gpus or hardware.get("cpu"), "CPU cores": hardware.get("cores")}
    facts |= {"CPU threads": hardware.get("threads")}
    return {name: str(value) for name, value in facts.items() if value not in (None, "")}


def _about_single_runs(single: Sequence[Group], several: Sequence[Group]) -> str:
    """Warn that a group against a single run is tested with the spread of the group, with the rate for these runs."""
    pairs = [(one, group, _LARGER * (group.spread or 0.0)) for one in single for group in several]
    rates = [estimate_false_positive_rate(group.correct, one.correct, spread) for one, group, spread in pairs]
    rate, (one, group, spread) = max(zip(rates, pairs, strict=True), key=lambda found: found[0])
    return (
        f"Warning: one run only: {', '.join(each.name for each in single)}. Against a group, its unknown spread over "
        f"seeds is taken to be that of the group. If the recipe of {one.name} varied over seeds by {100 * spread:.2f} "
        f"points, {_LARGER} times as much as {group.name}, a test that may be wrong in 5 of 100 comparisons of equal "
        f"recipes would be wrong in {100 * rate:.0f}. Train more seeds of it before a decision."
    )


def _notes(groups: Sequence[Group], images: Images, unfinished: Sequence[Path], split: str) -> Iterable[str]:
    if unfinished:
        names = ", ".join(path.name for path in unfinished[:5]) + ("…" if len(unfinished) > 5 else "")
        yield f"Left out, since not finished: {len(unfinished)} ({names})."
    if images.left_out:
        yield f"Compared on the {len(images):,} images that all runs share; {images.left_out:,} more are left out."
    for group in groups:
        seeds = [run.seed for run in group.runs]
        twice = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
        if twice:
            yield (
                f"{group.name} holds several runs of the seed {', '.join(twice)}: where these differ in nothing else "
                "they are one draw and count as more."
            )
        for run in group.runs:
            if run.diverged:
                yield f"{run.name}: the logits of {run.diverged:,} images are not finite; these count as wrong."
            if (status := status_of(run.run)) != "finished":
                yield f"{run.name} is not finished: {status}."
    single = [group for group in groups if len(group.runs) == 1]
    if single and len(single) < len(groups):
        yield _about_single_runs(single, [group for group in groups if len(group.runs) > 1])
    elif single:
        yield "Each is one run: what is tested is these trained models, not whether the recipes would differ again."
    if split == "val":
        yield "Validation images chose the checkpoints: these figures are a little too good."
