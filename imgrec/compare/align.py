"""Predictions of several runs on the same images, in one order of images and classes."""

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
from imgrec.runs.config import flat_config
from imgrec.runs.evaluations import read_evaluations, recorded_metrics
from imgrec.runs.folder import EVALUATIONS, RunFolder, find_runs, is_run_folder
from imgrec.runs.metrics_csv import MetricSeries
from imgrec.runs.predictions import Predictions
from imgrec.stats.intervals import wilson_interval

_SPLITS = {"test": "test", "val": "validation"}


@dataclass(frozen=True, eq=False)
class ComparedRun:
    """Predictions of a run for N images, in the order that all compared runs share.

    An image whose logits are not finite counts as incorrect, with a true-class probability of 0.

    Attributes:
        run: Run folder.
        correct: Booleans of shape ``(N,)``: True if the run classified the image correctly.
        predicted: Predicted class indices of shape ``(N,)``.
        true_probability: Probability of the true class, of shape ``(N,)``.
        nll: Negative log-likelihood in nats. NaN if a logit is not finite.
        ece: Expected calibration error. NaN if a logit is not finite.
        num_nonfinite: Number of images whose logits are not finite.
        custom: Other metrics by name. Registered metrics are computed from these predictions. Metrics of a user's
            ``build_metrics`` are read from the run, and absent if the run has predictions for other images too.
    """

    run: RunFolder
    correct: NDArray[np.bool_]
    predicted: NDArray[np.int64]
    true_probability: NDArray[np.float32]
    nll: float
    ece: float
    num_nonfinite: int
    custom: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Experiment and run id, separated by a slash."""
        return f"{self.run.experiment}/{self.run.run_id}"

    @property
    def accuracy(self) -> float:
        """Fraction of the images that the run classified correctly."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson_interval(int(self.correct.sum()), len(self.correct))

    @property
    def seed(self) -> Any:
        """Value of ``seed_everything`` in the config."""
        return self.config.get("seed_everything")

    @cached_property
    def config(self) -> dict[str, Any]:
        """Config of the run as one flat row."""
        return flat_config(self.run.recipe)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of summary.json, read once."""
        return self.run.summary

    @cached_property
    def metrics(self) -> dict[str, MetricSeries]:
        """Content of metrics.csv, read once. Empty if there is no such file."""
        return self.run.metrics() if self.run.metrics_file.is_file() else {}


@dataclass(frozen=True, eq=False)
class SharedImages:
    """The N images that all compared runs have predictions for.

    Attributes:
        ids: Sample ids.
        targets: Class indices of shape ``(N,)``.
        class_names: Names of the classes.
        num_excluded: Number of images that only some of the runs have predictions for.
    """

    ids: list[str]
    targets: NDArray[np.int64]
    class_names: tuple[str, ...]
    num_excluded: int = 0

    def __len__(self) -> int:
        return len(self.ids)


def find_finished_runs(paths: Iterable[str | Path | RunFolder]) -> tuple[list[RunFolder], list[Path]]:
    """Find the runs that paths specify, each once.

    Args:
        paths: Run folders, and folders of runs. A folder of runs specifies the finished runs in it.

    Returns:
        The runs, and the paths of unfinished runs in a folder of runs.

    Raises:
        UserError: If a path is no run folder and contains no finished run.
    """
    found: dict[Path, RunFolder] = {}
    unfinished: list[Path] = []
    for each in paths:
        path = Path(each).expanduser()
        below = [] if is_run_folder(path) else [RunFolder(p) for p in find_runs(path, depth=8)]
        if not below:
            found.setdefault(path.resolve(), RunFolder(path))
            continue
        finished = [run for run in below if run.summary.get("status") == "finished"]
        if not finished:
            raise UserError(
                f"{path}: expected a finished run in it, got {len(below)} unfinished. Pass their run folders."
            )
        unfinished += [run.path for run in below if run not in finished]
        for run in finished:
            found.setdefault(run.path.resolve(), run)
    return list(found.values()), unfinished


def align_predictions(
    runs: Sequence[RunFolder], split: str, shared: bool = False
) -> tuple[SharedImages, list[ComparedRun]]:
    """Read the predictions of several runs on one split, in one order of images and classes.

    Args:
        runs: Run folders, at least one.
        split: ``test``, ``val`` or ``evaluations/<name>``.
        shared: If True, use only the images that all runs have predictions for. Defaults to False.

    Raises:
        UserError: If a run has no predictions on the split, or the classes, images or labels of the runs differ.
            Different images are accepted if ``shared`` is set and the runs have at least two images in common.
    """
    all_ids: set[str] = set()
    ids: list[str] | None = None
    for run in runs:
        predictions = _read_predictions(run, split)
        all_ids |= set(predictions.ids)
        if ids is None:
            ids, names = predictions.ids, predictions.class_names
            continue
        if set(predictions.class_names) != set(names):
            raise UserError(_different_classes_text(runs[0], names, run, predictions.class_names))
        if predictions.ids != ids and (different := set(ids) ^ set(predictions.ids)):
            if not shared:
                raise UserError(_different_images_text(runs[0], ids, run, predictions.ids, split, different))
            common = set(predictions.ids)
            ids = [name for name in ids if name in common]
    assert ids is not None
    if len(ids) < 2:
        raise UserError(
            f"runs: expected at least 2 common {split_title(split)} images, got {len(ids)} of {len(all_ids):,}."
        )
    first = _read_predictions(runs[0], split)
    images = SharedImages(ids, first.targets[_rows_of(first, ids)], first.class_names, len(all_ids) - len(ids))
    return images, [_align_run(run, split, _read_predictions(run, split), images, runs[0]) for run in runs]


def split_title(split: str) -> str:
    """Return the title of a split: ``validation``, ``test``, or the name of an evaluation.

    >>> split_title("val"), split_title("evaluations/field")
    ('validation', 'field')
    """
    return _SPLITS.get(split, split.removeprefix(f"{EVALUATIONS}/"))


def _read_predictions(run: RunFolder, split: str) -> Predictions:
    evaluation = split.startswith(f"{EVALUATIONS}/")
    if split not in _SPLITS and not evaluation:
        raise UserError(f'--split: expected {", ".join(_SPLITS)} or {EVALUATIONS}/NAME, got "{split}"')
    if evaluation and not run.has_predictions(split):
        names = [f"{EVALUATIONS}/{name}" for name in read_evaluations(run)]
        has = f" It has: {', '.join(names)}.{suggestion(split, names)}" if names else ""
        raise UserError(
            f"the run {run.path} has no {split}.{has} `imgrec evaluate RUN DATA --name NAME` creates an evaluation."
        )
    if not run.has_predictions(split):
        command = {"val": "validate"}.get(split, split)
        other = "val" if split == "test" else "test"
        has = f", only on {other} (--split {other})" if run.has_predictions(other) else ""
        raise UserError(f"the run {run.path} has no predictions on {split}{has}. `imgrec {command} RUN` computes them.")
    found = run.predictions(split)
    if len(set(found.ids)) < len(found):
        raise UserError(f"{run.predictions_file(split)}: expected every id once, got duplicate ids.")
    return found


def _rows_of(predictions: Predictions, ids: list[str]) -> NDArray[np.int64]:
    """Return the row of every id in the predictions."""
    if predictions.ids == ids:
        return np.arange(len(ids))
    row = {name: i for i, name in enumerate(predictions.ids)}
    return np.array([row[name] for name in ids], dtype=np.int64)


def _align_run(
    run: RunFolder, split: str, predictions: Predictions, images: SharedImages, reference: RunFolder
) -> ComparedRun:
    rows = _rows_of(predictions, images.ids)
    index = np.array([images.class_names.index(name) for name in predictions.class_names], dtype=np.int64)
    targets, predicted = index[predictions.targets[rows]], index[predictions.predicted[rows]]
    if different := np.flatnonzero(targets != images.targets).tolist():
        first = different[0]
        raise UserError(
            f"{run.path}: expected the labels of {reference.path}, got other labels of {len(different):,} images. "
            f"{images.ids[first]} is {images.class_names[targets[first]]}, not "
            f"{images.class_names[images.targets[first]]}."
        )
    scores = per_image(predictions.logits[rows], predictions.targets[rows])
    computed = _compute_metrics(scores)
    nll, ece = computed.pop("nll"), computed.pop("ece")
    true_probability = np.nan_to_num(np.exp(-scores.nll), nan=0.0).astype(np.float32)
    if len(rows) == len(predictions):  # a custom metric cannot be computed again for some of the images
        recorded = recorded_metrics(run, split)
        computed |= {name: recorded[name] for name in custom_metrics(recorded)}
    num_nonfinite = int((~scores.has_softmax).sum())
    return ComparedRun(run, scores.correct, predicted, true_probability, nll, ece, num_nonfinite, computed)


def _compute_metrics(images: PerImage) -> dict[str, float]:
    """Return the metrics of METRICS that the table of a comparison shows. NaN if one is not defined."""
    shown = [metric for metric in METRICS.in_order() if "compare" in metric.properties.tables]
    values = {metric.name: metric.value(images) for metric in shown}
    return {name: float("nan") if value is None else value for name, value in values.items()}


def _different_classes_text(
    first: RunFolder, first_names: tuple[str, ...], run: RunFolder, run_names: tuple[str, ...]
) -> str:
    def listed(names: Iterable[str]) -> str:
        found = sorted(names)
        return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "") or "none"

    return (
        f"{run.path}: expected the classes of {first.path}. Only in the first: "
        f"{listed(set(run_names) - set(first_names))}. Only in the second: {listed(set(first_names) - set(run_names))}."
    )


def _different_images_text(
    first: RunFolder, first_ids: list[str], run: RunFolder, run_ids: list[str], split: str, different: set[str]
) -> str:
    common = len(set(first_ids) & set(run_ids))
    example = min(different)
    owner = first.path if example in set(first_ids) else run.path
    hint = "--shared compares the runs on these." if common >= 2 else "The runs cannot be compared."
    return (
        f"{run.path} and {first.path} have predictions for different {split_title(split)} images: {len(run_ids):,} and "
        f"{len(first_ids):,}, of which {common:,} are common ({example} is only in {owner}). {hint}"
    )
