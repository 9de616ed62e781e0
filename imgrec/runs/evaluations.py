"""Evaluations of a model on other data than that of its run, in ``evaluations/<name>/`` of the run folder."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from imgrec.errors import UserError
from imgrec.metrics.names import is_percent
from imgrec.runs.environment import describe_environment
from imgrec.runs.folder import EVALUATIONS, RunFolder
from imgrec.runs.predictions import Predictions, read_predictions, write_predictions
from imgrec.runs.summary import read_json, write_json
from imgrec.utils import yaml
from imgrec.utils.paths import folder_aside, write_text

METRICS_FILE = "metrics.json"
LEVEL = 0.95
"""Confidence level of the intervals."""

_NAME = re.compile(r"[^\w.+=-]+")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions of a model for a labelled set.

    Attributes:
        name: Name of the evaluation.
        model: Path of the model, and title of its runtime.
        predictions: Predictions of all images.
        metrics: Metrics by name, as in summary.json.
        intervals: 95 % confidence intervals of the metrics that have one.
        source: ``source``, ``classes`` and ``split`` of the set, as in source.yaml.
        skipped: Reason by id for every image that cannot be read.
        left_out: Number of images by class that ``data.classes`` of the run excludes.
        unknown: Number of images by class that the model lacks and that were excluded on request.
        trained_on: Number of images that the model was trained on.
        identity: Values that are equal for equal images, labels, weights and views.
        folder: Folder of the evaluation, or ``None`` if it was not written.
    """

    name: str
    model: tuple[str, str]
    predictions: Predictions
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    source: Mapping[str, Any]
    skipped: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    trained_on: int = 0
    identity: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None

    def class_counts(self) -> dict[str, int]:
        """Return the number of images by class, for all classes of the model."""
        counts = np.bincount(self.predictions.targets, minlength=len(self.predictions.class_names))
        return dict(zip(self.predictions.class_names, counts.tolist(), strict=True))

    def absent(self) -> list[str]:
        """Return the classes of the model that have no image."""
        return [name for name, count in self.class_counts().items() if not count]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of metrics.json: all fields except the predictions."""
        return {
            "name": self.name,
            "images": len(self.predictions),
            "metrics": dict(self.metrics),
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "level": LEVEL,
            "classes": self.class_counts(),
            "absent": self.absent(),
            "left_out": dict(self.left_out),
            "unknown": dict(self.unknown),
            "skipped": dict(self.skipped),
            "trained_on": self.trained_on,
            "model": {"path": self.model[0], "runtime": self.model[1]},
            "identity": dict(self.identity),
        }

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"<Evaluation {self.name} on {len(self.predictions):,} images: {metrics}>"


def evaluation_folder(run: RunFolder, name: str) -> Path:
    """Return the folder of an evaluation inside a run folder."""
    return run.path / EVALUATIONS / check_name(name)


def check_name(name: str) -> str:
    """Return the name of an evaluation if it is valid.

    Raises:
        UserError: If it is no valid name of a folder.
    """
    if not name or _NAME.search(name) or name.startswith("."):
        raise UserError(f"--name: expected letters, digits and . _ + = -, got {name!r}. Example: --name field-2026")
    return name


def default_evaluation_name(text: str) -> str:
    """Return the default name of an evaluation for a path or another text.

    >>> default_evaluation_name("/data/field images"), default_evaluation_name("sets/may.csv")
    ('field-images', 'may')
    """
    stem = Path(text).name
    stem = (
        Path(stem).stem if Path(stem).suffix.lower() in (".csv", ".tsv", ".parquet", ".tar", ".yaml", ".yml") else stem
    )
    return _NAME.sub("-", stem).strip("-.") or "evaluation"


def check_overwrite(folder: Path, identity: Mapping[str, Any], overwrite: bool) -> None:
    """Check that no evaluation of other images, weights or views is replaced.

    Raises:
        UserError: If the folder is such an evaluation and ``overwrite`` is False, or is no evaluation.
    """
    if not folder.exists():
        return
    if not (folder / METRICS_FILE).is_file():
        raise UserError(f"{folder} exists and is no evaluation. Specify another name: --name")
    before = read_json(folder / METRICS_FILE).get("identity") or {}
    titles = {"images": "other images or labels", "weights": "other weights", "tta": "other views"}
    changed = [title for key, title in titles.items() if before.get(key) != identity.get(key)]
    if changed and not overwrite:
        raise UserError(
            f"{folder} is an evaluation of {' and '.join(changed)}. Specify another name (--name), or --overwrite."
        )


def write_evaluation_folder(folder: Path, evaluation: Evaluation, page: str) -> None:
    """Write predictions.parquet, metrics.json, source.yaml and report.html atomically."""
    with folder_aside(folder) as aside:
        write_predictions(aside / "predictions.parquet", evaluation.predictions)
        write_json(aside / METRICS_FILE, evaluation.to_dict() | {"environment": describe_environment()})
        write_text(aside / "source.yaml", yaml.dump(dict(evaluation.source)))
        write_text(aside / "report.html", page)


def read_evaluations(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Return metrics.json of all evaluations of a run, sorted by name.

    Raises:
        UserError: If one is damaged.
    """
    found = sorted((run.path / EVALUATIONS).glob(f"*/{METRICS_FILE}"))
    return {path.parent.name: read_json(path) for path in found if not path.parent.name.startswith(".")}


def recorded_metrics(run: RunFolder, split: str) -> dict[str, float]:
    """Return the recorded metrics of a run on ``val``, ``test`` or ``evaluations/<name>``."""
    prefix, _, name = split.rpartition("/")
    found = read_evaluations(run).get(name, {}).get("metrics") if prefix == EVALUATIONS else run.summary.get(split)
    return {key: float(value) for key, value in (found or {}).items() if isinstance(value, int | float)}


def evaluation_predictions(run: RunFolder, name: str) -> Predictions:
    """Return the predictions of an evaluation of a run.

    Raises:
        UserError: If the run has no such evaluation.
    """
    return read_predictions(run.predictions_file(f"{EVALUATIONS}/{check_name(name)}"))


def interval_text(name: str, interval: tuple[float, float] | list[float] | None) -> str:
    """Return an interval for a table, in the unit of its metric, or an empty string if there is none.

    >>> interval_text("acc", (0.5, 0.75)), interval_text("nll", (0.5, 0.75)), interval_text("ece", None)
    ('50.00 to 75.00 %', '0.5000 to 0.7500', '')
    """
    if interval is None or not all(math.isfinite(end) for end in interval):
        return ""
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %" if is_percent(name) else f"{low:.4f} to {high:.4f}"
