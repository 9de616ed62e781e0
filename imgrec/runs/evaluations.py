"""Evaluations of a model on other data than that of its run: ``evaluations/<name>/`` in the run folder."""

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

METRICS = "metrics.json"
LEVEL = 0.95
"""Confidence of the intervals."""

_NAME = re.compile(r"[^\w.+=-]+")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions of a model for a labelled set.

    Attributes:
        name: name of the evaluation.
        model: path of the model, and its runtime in words.
        predictions: one row per image.
        metrics: metrics by name, as in summary.json.
        intervals: 95 % confidence intervals of those metrics that have one.
        source: ``source``, ``classes`` and ``split`` of the set, as in source.yaml.
        skipped: reason by id for each image that cannot be read.
        left_out: number of images by class that the run's ``data.classes`` leaves out.
        unknown: number of images by class that the model lacks, and that were left out on request.
        trained_on: number of images that the model was trained on.
        identity: values that are equal for equal images, labels, weights and views.
        folder: the folder that it was written to, or ``None``.
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
        """Return the number of evaluated images of each class of the model."""
        counts = np.bincount(self.predictions.targets, minlength=len(self.predictions.class_names))
        return dict(zip(self.predictions.class_names, counts.tolist(), strict=True))

    def absent(self) -> list[str]:
        """Return the classes of the model that the set has no image of."""
        return [name for name, count in self.class_counts().items() if not count]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the predictions, as metrics.json has it."""
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
        figures = ", ".join(f"{name} {value:.4f}" for name, value in self.metrics.items())
        return f"<Evaluation {self.name} on {len(self.predictions):,} images: {figures}>"


def evaluation_folder(run: RunFolder, name: str) -> Path:
    """Return the folder of an evaluation inside a run folder."""
    return run.path / EVALUATIONS / check_name(name)


def check_name(name: str) -> str:
    """Return the name of an evaluation if it can be the name of a folder.

    Raises:
        UserError: If it cannot.
    """
    if not name or _NAME.search(name) or name.startswith("."):
        raise UserError(f"--name: expected letters, digits and . _ + = -, got {name!r}. Example: --name field-2026")
    return name


def name_from(text: str) -> str:
    """Return a name of an evaluation for a path or another text.

    >>> name_from("/data/field images"), name_from("sets/may.csv")
    ('field-images', 'may')
    """
    stem = Path(text).name
    stem = (
        Path(stem).stem if Path(stem).suffix.lower() in (".csv", ".tsv", ".parquet", ".tar", ".yaml", ".yml") else stem
    )
    return _NAME.sub("-", stem).strip("-.") or "evaluation"


def refuse_other(folder: Path, identity: Mapping[str, Any], overwrite: bool) -> None:
    """Refuse to replace an evaluation of other images, other weights or other views.

    Raises:
        UserError: If the folder holds one and ``overwrite`` is false, or holds something else.
    """
    if not folder.exists():
        return
    if not (folder / METRICS).is_file():
        raise UserError(f"{folder} exists and is no evaluation. Give another name: --name")
    before = read_json(folder / METRICS).get("identity") or {}
    words = {"images": "other images or labels", "weights": "other weights", "tta": "other views"}
    changed = [said for key, said in words.items() if before.get(key) != identity.get(key)]
    if changed and not overwrite:
        raise UserError(
            f"{folder} holds an evaluation of {' and '.join(changed)}. Give another name (--name), or --overwrite."
        )


def write_evaluation_folder(folder: Path, evaluation: Evaluation, page: str) -> None:
    """Write predictions.parquet, metrics.json, source.yaml and report.html, all or nothing."""
    with folder_aside(folder) as aside:
        write_predictions(aside / "predictions.parquet", evaluation.predictions)
        write_json(aside / METRICS, evaluation.to_dict() | {"environment": describe_environment()})
        write_text(aside / "source.yaml", yaml.dump(dict(evaluation.source)))
        write_text(aside / "report.html", page)


def read_evaluations(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Return metrics.json of each evaluation of a run, by name, in the order of the names.

    Raises:
        UserError: If one is damaged.
    """
    found = sorted((run.path / EVALUATIONS).glob(f"*/{METRICS}"))
    return {path.parent.name: read_json(path) for path in found if not path.parent.name.startswith(".")}


def recorded_metrics(run: RunFolder, split: str) -> dict[str, float]:
    """Return the metrics that a run recorded on ``val`` or ``test``, or in an evaluation: ``evaluations/<name>``."""
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
    """Return an interval for a table, in the unit of its metric; an empty string if there is none.

    >>> interval_text("acc", (0.5, 0.75)), interval_text("nll", (0.5, 0.75)), interval_text("ece", None)
    ('50.00 to 75.00 %', '0.5000 to 0.7500', '')
    """
    if interval is None or not all(math.isfinite(end) for end in interval):
        return ""
    low, high = interval
    return f"{100 * low:.2f} to {100 * high:.2f} %" if is_percent(name) else f"{low:.4f} to {high:.4f}"
