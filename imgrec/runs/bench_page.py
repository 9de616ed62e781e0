"""The page of a bench, and its section in a run's report."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgrec.files import write_text
from imgrec.runs.bench_figures import network_keys, pareto_drawings
from imgrec.runs.bench_rows import BENCH, Bench, read_bench
from imgrec.runs.bench_text import LEFT, baseline, caption, columns_of
from imgrec.runs.folder import RunFolder
from imgrec.runs.page import render_page


def write_bench_page(bench: Bench, path: str | Path) -> Path:
    """Write the page of a bench and give its path. It needs no network and no other file."""
    names = list(dict.fromkeys(row.name for row in bench.rows))
    title = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
    write_text(Path(path), render_page("imgrec.runs", "bench_template.html", {"title": title, **bench_content(bench)}))
    return Path(path)


def report_section(run: RunFolder) -> dict[str, Any]:
    """What the template of a report asks for: ``bench``, or ``None`` where the run folder holds no bench.

    Raises:
        UserError: its bench.csv is broken.
    """
    file = run.path / BENCH
    return {"bench": bench_content(read_bench(file))["bench"] if file.is_file() else None}


def bench_content(bench: Bench) -> dict[str, Any]:
    """What the shared part of the templates asks for, under ``bench``."""
    columns = columns_of(bench)
    first = baseline(bench)
    rows = [[{"text": column.text(row), "raw": _raw(column.value(row))} for column in columns] for row in bench.rows]
    colours = dict(network_keys(bench))
    drawings = pareto_drawings(bench)
    content = {
        "caption": caption(bench),
        "drawings": drawings,
        "keys": network_keys(bench) if drawings else [],
        "columns": [{"name": c.name, "meaning": c.meaning, "text": c.name in LEFT} for c in columns],
        "rows": [{"cells": cells, "colour": colours[row.name]} for row, cells in zip(bench.rows, rows, strict=True)],
        "meanings": [(c.name, c.meaning) for c in columns if c.meaning],
        "row_notes": [(row.title, row.note) for row in bench.rows if row.note],
        "notes": list(bench.notes),
        "baseline": first,
        "origin": f"Measured {_moment(bench.measured)} with {bench.versions}.",
    }
    return {"bench": content}


def _raw(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else repr(float(value))


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text).astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"
