"""report.html of an evaluation, and the section on evaluations in the report of a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.metrics.names import hint_of, metric_text, ordered, shown_in, title_of
from imgrec.reports.html import render_page
from imgrec.reports.report_sections import prediction_sections
from imgrec.runs.environment import describe_environment
from imgrec.runs.evaluations import Evaluation, interval_text, read_evaluations
from imgrec.runs.folder import RunFolder
from imgrec.utils import yaml

Images = Callable[[list[str]], Sequence[NDArray[np.uint8] | None]]


def evaluation_page(evaluation: Evaluation, images: Images | None = None) -> str:
    """Return the page of an evaluation; see :func:`imgrec.reports.report.write_report` for ``images``."""
    predictions, metrics, intervals = evaluation.predictions, evaluation.metrics, evaluation.intervals
    whole = bool(predictions.finite.all())
    names = [name for name in ordered(metrics) if name != "loss"]
    tiles = shown_in("report", names)
    environment = describe_environment()
    return render_page(
        "imgrec.reports",
        "report_template.html",
        {
            "title": evaluation.name,
            "run_id": evaluation.model[0],
            "started": "",
            "status": "evaluation of other data",
            "warnings": evaluation_notes(evaluation),
            "tiles": [_tile(name, metrics, intervals) for name in names if name == "acc" or name in tiles],
            "curves": None,
            "scores": _scores(evaluation, names),
            "evaluations": None,
            "compression": None,
            "soup": None,
            "bench": None,
            "split": evaluation.name if whole else None,
            "machine": [],
            "origin": _origin(evaluation),
            "skipped": sorted(evaluation.skipped.items()),
            "config": yaml.dump(dict(evaluation.source)),
            "environment": json.dumps(environment, indent=2, ensure_ascii=False),
            "version": (environment.get("versions") or {}).get("imgrec"),
            **(prediction_sections(predictions, images) if whole else {}),
        },
    )


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """Return what a reader has to know of an evaluation, in sentences."""
    notes = []
    if evaluation.trained_on:
        notes.append(
            f"The model was trained on {evaluation.trained_on:,} of these {len(evaluation.predictions):,} images: the "
            "figures are too good."
        )
    for word, counts in (
        ("Left out by the run's data.classes", evaluation.left_out),
        ("Left out, since the model lacks the class", evaluation.unknown),
    ):
        if counts:
            notes.append(f"{word}: {', '.join(f'{name} ({count:,})' for name, count in counts.items())}.")
    if absent := evaluation.absent():
        more = f" and {len(absent) - 20} more" if len(absent) > 20 else ""
        notes.append(f"Classes without an image: {', '.join(absent[:20])}{more}.")
    diverged = int((~evaluation.predictions.finite).sum())
    if diverged:
        notes.append(f"The logits of {diverged:,} images are NaN or infinite; these images count as wrong.")
    return notes


def evaluations_section(run: RunFolder) -> dict[str, Any] | None:
    """Return the values of the report's section on evaluations; ``None`` if the run has none."""
    found = read_evaluations(run)
    if not found:
        return None
    names = ordered(name for each in found.values() for name in each["metrics"])
    shown = shown_in("evaluations", names)
    rows = []
    for name, each in found.items():
        interval = interval_text("acc", each["intervals"].get("acc"))
        cells = [metric_text(key, each["metrics"].get(key)) for key in shown]
        rows.append({"name": name, "images": f"{each['images']:,}", "interval": interval, "cells": cells})
    return {"names": [title_of(name) for name in shown], "rows": rows}


def _tile(name: str, metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]]) -> dict[str, Any]:
    interval = interval_text(name, intervals.get(name))
    more = f"95 % interval {interval}" if interval else hint_of(name)
    return _cell(name, metrics[name]) | {"name": title_of(name), "more": more, "main": name == "acc"}


def _scores(evaluation: Evaluation, names: Sequence[str]) -> dict[str, Any]:
    values = [_cell(name, evaluation.metrics[name]) for name in names]
    ends = [
        {"key": f"{name}_interval", "raw": "", "text": interval_text(name, evaluation.intervals.get(name)) or "—"}
        for name in names
    ]
    rows = [
        {"split": evaluation.name, "title": "Value", "images": f"{len(evaluation.predictions):,}", "cells": values},
        {"split": "interval", "title": "95 % interval", "images": "", "cells": ends},
    ]
    note = "Macro figures are means over the classes that occur or were predicted; AUROC is one class against the rest."
    return {"names": [title_of(name) for name in names], "rows": rows, "note": note}


def _cell(name: str, value: float) -> dict[str, Any]:
    raw = "" if value != value else repr(float(value))
    return {"key": name, "raw": raw, "text": metric_text(name, value)}


def _origin(evaluation: Evaluation) -> list[tuple[str, str]]:
    return [
        ("Model", evaluation.model[0]),
        ("Runtime", evaluation.model[1]),
        ("Weights", str(evaluation.identity.get("weights"))),
        ("Images", f"{len(evaluation.predictions):,} evaluated, {len(evaluation.skipped):,} unreadable"),
    ]
