"""HTML page of a benchmark, and its section in the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgrec.reports.bench.figures import model_colours, pareto_drawings
from imgrec.reports.bench.results import BENCH_FILE, Bench, read_bench
from imgrec.reports.bench.table import LEFT, Column, baseline, caption, columns_of
from imgrec.reports.html import render_page
from imgrec.runs.folder import RunFolder
from imgrec.utils.paths import write_text


def write_bench_page(bench: Bench, path: str | Path) -> Path:
    """Write the page of a benchmark and return its path. It requires no network and no other file."""
    names = list(dict.fromkeys(row.name for row in bench.rows))
    title = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    write_text(
        Path(path), render_page("imgrec.reports", "bench_template.html", {"title": title, **bench_content(bench)})
    )
    return Path(path)


def bench_section(run: RunFolder) -> dict[str, Any]:
    """Return the variable ``bench`` of the report template, which is ``None`` if the run folder has no benchmark.

    Raises:
        UserError: If bench.csv is broken.
    """
    file = run.path / BENCH_FILE
    return {"bench": bench_content(read_bench(file))["bench"] if file.is_file() else None}


def bench_content(bench: Bench) -> dict[str, Any]:
    """Return the variable ``bench`` of the template bench_section.html."""
    columns = columns_of(bench)
    drawings = pareto_drawings(bench)
    drawn = {row.name for row in bench.rows if row.accuracy is not None}
    content = {
        "caption": caption(bench),
        "drawings": drawings,
        "keys": [(name, colour) for name, colour in model_colours(bench) if name in drawn] if len(drawn) > 1 else [],
        "tables": [
            _table(bench, [c for c in columns if c.name in LEFT or c.quality is side]) for side in (False, True)
        ],
        "meanings": [(c.name, c.meaning) for c in columns if c.meaning],
        "row_notes": [(row.title, row.note) for row in bench.rows if row.note],
        "notes": list(bench.notes),
        "baseline": baseline(bench),
        "origin": f"Measured {_date_text(bench.measured)} with {bench.versions}.",
    }
    return {"bench": content}


def _table(bench: Bench, columns: Sequence[Column]) -> dict[str, Any]:
    colours = dict(model_colours(bench))
    rows = [
        {
            "cells": [{"text": column.text(row), "raw": _raw(column.value(row))} for column in columns],
            "colour": colours[row.name],
        }
        for row in bench.rows
    ]
    return {
        "columns": [{"name": c.name, "meaning": c.meaning, "text": c.name in LEFT} for c in columns],
        "rows": rows if len(columns) > len(LEFT) else [],
    }


def _raw(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(float(value))


def _date_text(text: str) -> str:
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
