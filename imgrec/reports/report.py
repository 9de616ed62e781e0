"""Report of a run: report.html, one self-contained page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgrec.metrics import classification_scores
from imgrec.metrics.names import hint_of, metric_text, ordered, shown_in, title_of
from imgrec.reports.bench.html import bench_section
from imgrec.reports.compression_section import compression_section
from imgrec.reports.evaluation_page import evaluations_section
from imgrec.reports.figures import training_curves
from imgrec.reports.html import ImageLoader, render_page
from imgrec.reports.report_sections import prediction_sections
from imgrec.reports.soup_section import soup_section
from imgrec.runs.folder import RunFolder
from imgrec.runs.liveness import status_of
from imgrec.runs.predictions import Predictions
from imgrec.runs.system import system_rows
from imgrec.stats.intervals import wilson_interval
from imgrec.utils import yaml
from imgrec.utils.formatting import duration, epoch_text, short_count
from imgrec.utils.paths import write_text

_SPLITS = {"test": "test", "val": "validation"}


def write_report(run: RunFolder, images: ImageLoader | None = None) -> Path:
    """Write report.html of a run.

    Confusion matrix, diagrams and lists show the test predictions, or the validation predictions if there are no
    others. The page requires no network and no other file.

    Args:
        run: Run folder, of a finished or interrupted run.
        images: Function that returns the images of sample ids. Without it, the most confident errors are listed
            without thumbnails.

    Returns:
        The path of the file.

    Raises:
        UserError: If a file of the run folder is broken.
    """
    write_text(run.report, render_page("imgrec.reports", "report_template.html", _content(run, images)))
    return run.report


def _content(run: RunFolder, images: ImageLoader | None) -> dict[str, Any]:
    summary, environment = run.summary, run.environment
    warnings: list[str] = []
    predictions = {split: run.predictions(split) if run.has_predictions(split) else None for split in _SPLITS}
    scored = {split: _split_metrics(run, split, found) for split, found in predictions.items()}
    finite = {split: _finite_only(found, _SPLITS[split], warnings) for split, found in predictions.items() if found}
    main = next((split for split, found in finite.items() if found is not None), None)
    metrics = run.metrics() if run.metrics_file.is_file() else {}
    main_predictions = finite[main] if main else None
    sections = prediction_sections(main_predictions, images) if main_predictions is not None else {}
    skipped = summary.get("skipped_images") or {}
    return {
        "title": run.experiment,
        "run_id": run.run_id,
        "started": _date_text(environment.get("started")),
        "status": status_of(run),
        "warnings": warnings,
        "tiles": _tiles(summary, predictions, scored),
        "curves": training_curves(metrics, summary.get("best_epoch")),
        "scores": _scores(predictions, scored),
        "evaluations": evaluations_section(run),
        "compression": compression_section(run),
        "soup": soup_section(run),
        "split": _SPLITS[main] if main else None,
        "machine": system_rows(metrics, environment),
        "origin": _origin(summary, environment),
        "skipped": sorted(skipped.items()),
        "config": yaml.dump(run.config),
        "environment": json.dumps(environment, indent=2, ensure_ascii=False),
        "version": (environment.get("versions") or {}).get("imgrec"),
        **bench_section(run),
        **sections,
    }


def _split_metrics(run: RunFolder, split: str, predictions: Predictions | None) -> dict[str, float]:
    """Return the metrics of a split, computed from its predictions. Others are read from the summary."""
    recorded = {name: value for name, value in (run.summary.get(split) or {}).items() if value is not None}
    recorded.pop("loss", None)  # a page shows the losses as curves
    computed = {} if predictions is None else classification_scores(predictions.logits, predictions.targets)
    return {**recorded, **computed}


def _finite_only(predictions: Predictions, split: str, warnings: list[str]) -> Predictions | None:
    """Return the predictions with finite logits, and append a warning if there are others."""
    finite = predictions.finite
    if finite.all():
        return predictions if len(predictions) else None
    warnings.append(
        f"The logits of {int((~finite).sum())} of {len(predictions)} {split} images are NaN or infinite, as after "
        "divergence. These images count as incorrect in the scores. The other sections exclude them."
    )
    ids = [name for name, keep in zip(predictions.ids, finite, strict=True) if keep]
    found = Predictions(ids, predictions.targets[finite], predictions.logits[finite], predictions.class_names)
    return found if len(found) else None


def _tiles(
    summary: Mapping[str, Any],
    predictions: Mapping[str, Predictions | None],
    scored: Mapping[str, Mapping[str, float]],
) -> list[dict[str, Any]]:
    tiles: list[dict[str, Any]] = []
    split = next((s for s in _SPLITS if scored[s].get("acc") is not None), None)
    if split is not None:
        scores = scored[split]
        found = predictions.get(split)
        more = "no predictions: no interval"
        if found is not None:
            correct = int(found.correct.sum())
            low, high = wilson_interval(correct, len(found))
            more = f"95 % interval {100 * low:.2f} to {100 * high:.2f} %, {correct:,} of {len(found):,} images"
        tiles.append(
            _cell("acc", scores["acc"])
            | {"name": f"{_SPLITS[split].capitalize()} accuracy", "more": more, "main": True}
        )
        tiles += [
            _cell(key, scores[key]) | {"name": title_of(key), "more": hint_of(key), "main": False}
            for key in shown_in("report", scores)
            if scores.get(key) is not None
        ]
    if (epochs := summary.get("epochs")) is not None:
        best = summary.get("best_epoch")
        more = "" if best is None else f"best: {epoch_text(best, epochs)} (best_epoch: {best})"
        tiles.append(_plain_tile("epochs", "Epochs", epochs, f"{epochs:,}", more))
    if (seconds := summary.get("train_seconds")) is not None:
        tiles.append(_plain_tile("train_seconds", "Training time", seconds, duration(seconds), ""))
    if (count := summary.get("parameters")) is not None:
        tiles.append(
            _plain_tile("parameters", "Parameters", count, short_count(count), f"{count:,}" if count >= 1000 else "")
        )
    return tiles


def _scores(
    predictions: Mapping[str, Predictions | None],
    scored: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    keys = ordered(key for scores in scored.values() for key in scores)
    rows: list[dict[str, Any]] = []
    for split, scores in scored.items():
        if not any(scores.get(key) is not None for key in keys):
            continue
        found = predictions[split]
        images = f"{len(found):,}" if found is not None else "—"
        cells = [_cell(key, scores.get(key)) for key in keys]
        rows.append({"split": split, "title": _SPLITS[split].capitalize(), "images": images, "cells": cells})
    unpredicted = [_SPLITS[row["split"]] for row in rows if predictions[row["split"]] is None]
    note = "Macro metrics are means over the classes with images or predictions. AUROC is one-vs-rest."
    if unpredicted:
        note += f" Read from the summary, because there are no predictions: {' and '.join(unpredicted)}."
    return {"names": [title_of(key) for key in keys], "rows": rows, "note": note}


def _origin(summary: Mapping[str, Any], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    git = environment.get("git") or {}
    hardware = environment.get("hardware") or {}
    gpus = [gpu["name"] for gpu in hardware.get("gpus") or []]
    device = ", ".join(gpus) if gpus else hardware.get("cpu")
    sizes = summary.get("split_sizes") or {}
    changed = ", with uncommitted changes" if git.get("dirty") else ""
    rows = {
        "Images": ", ".join(f"{name} {count:,}" for name, count in sizes.items()),
        "Data fingerprint": environment.get("data_fingerprint"),
        "Seed": environment.get("seed"),
        "Command": environment.get("command"),
        "Commit": f"{git['commit']}{changed}" if git.get("commit") else None,
        "Hardware": f"{device}, {hardware.get('cores')} CPU cores" if device else None,
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _cell(key: str, value: float | None) -> dict[str, Any]:
    raw = "" if value is None or value != value else repr(float(value))
    return {"key": key, "raw": raw, "text": metric_text(key, value)}


def _plain_tile(key: str, name: str, raw: float, text: str, more: str) -> dict[str, Any]:
    return {"key": key, "name": name, "raw": repr(raw), "text": text, "more": more, "main": False}


def _date_text(text: Any) -> str:
    try:
        moment = datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return ""
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def write_report_with_images(run: RunFolder, data: Any) -> Path:
    """Write the report of a run with thumbnails of the images of its data module, and return its path."""
    from imgrec.runs.data import make_image_loader

    return write_report(run, images=make_image_loader(data) if hasattr(data, "load_images") else None)
