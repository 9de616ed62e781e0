"""Report of an evaluation, and the section on evaluations in the report of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imgrec.metrics.names import hint_of, metric_text, ordered, shown_in, title_of
from imgrec.reports.html import ImageLoader, render_page
from imgrec.reports.report_sections import prediction_sections
from imgrec.runs.environment import describe_environment
from imgrec.runs.evaluations import Evaluation, interval_text, read_evaluations
from imgrec.runs.folder import RunFolder
from imgrec.utils import yaml


def evaluation_page(evaluation: Evaluation, images: ImageLoader | None = None) -> str:
    """Return the HTML page of an evaluation.

    Args:
        evaluation: Evaluation to describe.
        images: Function that returns the images of sample ids, as in :func:`imgrec.reports.report.write_report`.
    """
    predictions, metrics, intervals = evaluation.predictions, evaluation.metrics, evaluation.intervals
    is_finite = bool(predictions.finite.all())
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
            "split": evaluation.name if is_finite else None,
            "machine": [],
            "origin": _origin(evaluation),
            "skipped": sorted(evaluation.skipped.items()),
            "config": yaml.dump(dict(evaluation.source)),
            "environment": json.dumps(environment, indent=2, ensure_ascii=False),
            "version": (environment.get("versions") or {}).get("imgrec"),
            **(prediction_sections(predictions, images) if is_finite else {}),
        },
    )


def evaluation_notes(evaluation: Evaluation) -> list[str]:
    """Return warnings and remarks about an evaluation, one sentence each."""
    notes = []
    if evaluation.trained_on:
        notes.append(
            f"The model was trained on {evaluation.trained_on:,} of these {len(evaluation.predictions):,} images. The "
            "figures are too high."
        )
    for reason, counts in (
        ("Excluded by data.classes of the run", evaluation.left_out),
        ("Excluded because the model lacks the class", evaluation.unknown),
    ):
        if counts:
            notes.append(f"{reason}: {', '.join(f'{name} ({count:,})' for name, count in counts.items())}.")
    if absent := evaluation.absent():
        more = f" and {len(absent) - 20} more" if len(absent) > 20 else ""
        notes.append(f"Classes without images: {', '.join(absent[:20])}{more}.")
    num_nonfinite = int((~evaluation.predictions.finite).sum())
    if num_nonfinite:
        notes.append(f"The logits of {num_nonfinite:,} images are NaN or infinite. These images count as incorrect.")
    return notes


def evaluations_section(run: RunFolder) -> dict[str, Any] | None:
    """Return the values of the report section on evaluations, or ``None`` if the run has none."""
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
    note = "Macro metrics are means over the classes with images or predictions. AUROC is one-vs-rest."
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
