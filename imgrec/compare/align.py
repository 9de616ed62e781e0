"""Runs that are to be compared: their predictions on the same images, laid over one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError, suggestion
from imgrec.metrics import METRICS
from imgrec.metrics.names import custom_metrics
from imgrec.metrics.per_image import PerImage, per_image
from imgrec.runs.evaluations import read_evaluations, recorded_metrics
from imgrec.runs.flat_config import flat_config
from imgrec.runs.folder import EVALUATIONS, RunFolder, find_runs, is_run_folder
from imgrec.runs.metrics_csv import MetricSeries
from imgrec.runs.predictions import Predictions
from imgrec.stats.intervals import wilson_interval

_SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """What a run said of each of N images, in the order that all compared runs share.

    Shapes: ``correct`` bool ``(N,)``; ``predicted`` int64 ``(N,)``; ``truth`` float32 ``(N,)``, the probability of the
    true class. An image whose logits are not finite counts as wrong, with probability 0; ``diverged`` says how many
    there are. ``nll`` and ``ece`` are NaN then. ``custom`` holds the other metrics: registered ones, computed
    from these predictions, and those of a user's ``build_metrics``, as the run recorded them. The latter are absent if
    the run has predictions on further images.
    """

    run: RunFolder
    correct: NDArray[np.bool_]
    predicted: NDArray[np.int64]
    truth: NDArray[np.float32]
    nll: float
    ece: float
    diverged: int
    custom: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Experiment and run id."""
        return f"{self.run.experiment}/{self.run.run_id}"

    @property
    def accuracy(self) -> float:
        """The fraction of the images that the run named correctly."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(int(self.correct.sum()), len(self.correct))

    @property
    def seed(self) -> Any:
        """What ``seed_everything`` was given."""
        return self.config.get("seed_everything")

    @cached_property
    def config(self) -> dict[str, Any]:
        """The run's config as one flat row."""
        return flat_config(self.run.recipe)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The run's summary.json, read once."""
        return self.run.summary

    @cached_property
    def metrics(self) -> dict[str, MetricSeries]:
        """The run's metrics.csv, read once; empty where there is none."""
        return self.run.metrics() if self.run.metrics_file.is_file() else {}


@dataclass(frozen=True, eq=False)
class Images:
    """The N images that all compared runs have predictions on."""

    ids: list[str]
    targets: NDArray[np.int64]
    class_names: tuple[str, ...]
    left_out: int = field(default=0)
    """How many more some run has predictions on."""

    def __len__(self) -> int:
        return len(self.ids)


def find_compared(given: Iterable[str | Path | RunFolder]) -> tuple[list[RunFolder], list[Path]]:
    """The runs that paths mean, each once: a run folder, or a folder of runs, which stands for its finished ones.

    Returns:
        The runs, and those below a given folder that were left out because they are not finished.

    Raises:
        UserError: a path is neither, or no finished run lies below it.
    """
    found: dict[Path, RunFolder] = {}
    unfinished: list[Path] = []
    for each in given:
        path = Path(each).expanduser()
        below = [] if is_run_folder(path) else [RunFolder(p) for p in find_runs(path, depth=8)]
        if not below:
            found.setdefault(path.resolve(), RunFolder(path))
            continue
        finished = [run for run in below if run.summary.get("status") == "finished"]
        if not finished:
            raise UserError(f"{path}: none of the {len(below)} runs below it is finished; name those to compare")
        unfinished += [run.path for run in below if run not in finished]
        for run in finished:
            found.setdefault(run.path.resolve(), run)
    return list(found.values()), unfinished


def align(runs: Sequence[RunFolder], split: str, shared: bool = False) -> tuple[Images, list[ComparedRun]]:
    """The predictions of several runs on ``split``, in one order of the images.

    Args:
        runs: at least one.
        split: ``test`` or ``val``.
        shared: take the images that all runs share, where they were not tested on the same.

    Raises:
        UserError: a run has no predictions on the split, the runs know different classes, were tested on different
            images (and ``shared`` is not set, or they share none), or do not agree on an image's label.
    """
    everything: set[str] = set()
    ids: list[str] | None = None
    for run in runs:
        said = _predictions(run, split)
        everything |= set(said.ids)
        if ids is None:
            ids, names = said.ids, said.class_names
            continue
        if set(said.class_names) != set(names):
            raise UserError(_other_classes(runs[0], names, run, said.class_names))
        if said.ids != ids and (different := set(ids) ^ set(said.ids)):
            if not shared:
                raise UserError(_other_images(runs[0], ids, run, said.ids, split, different))
            kept = set(said.ids)
            ids = [name for name in ids if name in kept]
    assert ids is not None
    if len(ids) < 2:
        raise UserError(f"the runs share {len(ids)} of the {len(everything):,} {split_words(split)} images: too few")
    first = _predictions(runs[0], split)
    images = Images(ids, first.targets[_places(first, ids)], first.class_names, len(everything) - len(ids))
    return images, [_laid(run, split, _predictions(run, split), images, runs[0]) for run in runs]


def split_words(split: str) -> str:
    """Return a split in words: ``validation``, ``test``, or the name of an evaluation.

    >>> split_words("val"), split_words("evaluations/field")
    ('validation', 'field')
    """
    return _SPLITS.get(split, split.removeprefix(f"{EVALUATIONS}/"))


def _predictions(run: RunFolder, split: str) -> Predictions:
    evaluation = split.startswith(f"{EVALUATIONS}/")
    if split not in _SPLITS and not evaluation:
        raise UserError(f'--split: expected {", ".join(_SPLITS)} or {EVALUATIONS}/NAME, got "{split}"')
    if evaluation and not run.has_predictions(split):
        there = [f"{EVALUATIONS}/{name}" for name in read_evaluations(run)]
        has = f" It has: {', '.join(there)}.{suggestion(split, there)}" if there else ""
        raise UserError(f"the run {run.path} has no {split}.{has} `imgrec evaluate RUN DATA --name NAME` makes one.")
    if not run.has_predictions(split):
        command = {"val": "validate"}.get(split, split)
        other = "val" if split == "test" else "test"
        has = f"; it has some on {other} (--split {other})" if run.has_predictions(other) else ""
        raise UserError(f"the run {run.path} has no predictions on {split}{has}. `imgrec {command} RUN` makes them.")
    found = run.predictions(split)
    if len(set(found.ids)) < len(found):
        raise UserError(f"{run.predictions_file(split)}: expected each id once, got one several times")
    return found


def _places(said: Predictions, ids: list[str]) -> NDArray[np.int64]:
    """Where each of ``ids`` stands among the predictions."""
    if said.ids == ids:
        return np.arange(len(ids))
    place = {name: i for i, name in enumerate(said.ids)}
    return np.array([place[name] for name in ids], dtype=np.int64)


def _laid(run: RunFolder, split: str, said: Predictions, images: Images, reference: RunFolder) -> ComparedRun:
    places = _places(said, images.ids)
    to_ours = np.array([images.class_names.index(name) for name in said.class_names], dtype=np.int64)
    targets, predicted = to_ours[said.targets[places]], to_ours[said.predicted[places]]
    if other := np.flatnonzero(targets != images.targets).tolist():
        raise UserError(
            f"{run.path} and {reference.path} do not agree on the labels of {len(other):,} images: "
            f"{images.ids[other[0]]} is {images.class_names[targets[other[0]]]} here and "
            f"{images.class_names[images.targets[other[0]]]} there"
        )
    each = per_image(said.logits[places], said.targets[places])
    computed = _computed(each)
    nll, ece = computed.pop("nll"), computed.pop("ece")
    truth = np.nan_to_num(np.exp(-each.nll), nan=0.0).astype(np.float32)
    own = recorded_metrics(run, split)
    same = len(places) == len(said)  # a custom metric cannot be computed again for some of the images
    custom = computed | ({name: own[name] for name in custom_metrics(own)} if same else {})
    diverged = int((~each.has_softmax).sum())
    return ComparedRun(run, each.correct, predicted, truth, nll, ece, diverged, custom)


def _computed(images: PerImage) -> dict[str, float]:
    """Return the metrics of METRICS that the table of a comparison shows; NaN if one is not defined."""
    shown = [metric for metric in METRICS.in_order() if "compare" in metric.properties.tables]
    values = {metric.name: metric.value(images) for metric in shown}
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _other_classes(first: RunFolder, ours: tuple[str, ...], run: RunFolder, theirs: tuple[str, ...]) -> str:
    def some(names: Iterable[str]) -> str:
        found = sorted(names)
        return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") or "none"

    return (
        f"{run.path} and {first.path} know different classes and cannot be compared. "
        f"Only the first: {some(set(theirs) - set(ours))}; only the second: {some(set(ours) - set(theirs))}."
    )


def _other_images(
    first: RunFolder, ours: list[str], run: RunFolder, theirs: list[str], split: str, odd: set[str]
) -> str:
    common = len(set(ours) & set(theirs))
    example = min(odd)
    where = first.path if example in set(ours) else run.path
    way = "--shared compares on those." if common >= 2 else "There is nothing to compare them on."
    return (
        f"{run.path} and {first.path} have predictions on different {split_words(split)} images: {len(theirs):,} and "
        f"{len(ours):,}, of which they share {common:,} ({example} is only in {where}). {way}"
    )
