"""Table of a benchmark for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imgrec.reports.bench.results import Bench, BenchRow
from imgrec.utils.formatting import format_size, short_count

ABSENT = "—"
LEFT = ("Network", "Runtime", "Precision")
"""Columns of text."""

_FIRST = ("Runtime", "Precision", "ms", "Accuracy", "Size", "±", "speed-up", "Params", "Zeros", "Difference", "Agree")
_TIMES = ("ms", "p95 ms", "speed-up")
_THEN = ("ms", "p95 ms", "Images/s", "ECE", "MACs", "Memory", "p95 ms", "speed-up")


@dataclass(frozen=True)
class Column:
    """Column of the table.

    Attributes:
        name: Title of the column.
        meaning: Description of the column.
        value: Function of a row that returns the exact value.
        text: Function of a row that returns the text of the cell.
        quality: True for a metric of predictions, False for a cost.
    """

    name: str
    meaning: str
    value: Callable[[BenchRow], float | str | None]
    text: Callable[[BenchRow], str]
    quality: bool = False


def columns_of(bench: Bench) -> list[Column]:
    """Return the columns for which at least one row has a value."""
    found = [
        Column("Network", "", lambda row: row.name, lambda row: row.name),
        Column("Runtime", "", lambda row: row.runtime, lambda row: row.runtime),
        Column(
            "Precision", "precision of most of the arithmetic", lambda row: row.precision, lambda row: row.precision
        ),
        Column("Params", "parameters", lambda row: row.parameters, _count("parameters")),
        Column("Zeros", "parameters that are zero, which alone is no speed-up", lambda row: row.zeros, _zeros),
        Column("MACs", "multiply-accumulates per image", lambda row: row.macs, _count("macs")),
        Column("Size", "bytes on disk", lambda row: row.bytes, _size("bytes")),
        Column("Memory", "peak of weights and activations in a call with the largest batch", *_memory()),
    ]
    for batch in bench.batches:
        found += _times(batch)
    found += [
        Column("Images/s", "throughput with the largest batch", lambda row: row.images_per_second, _per_second),
        Column("J/image", "energy of the CPU package or GPU", lambda row: row.joules, _joules),
        Column("Accuracy", "in percent", lambda row: row.accuracy, lambda row: _percent(row.accuracy, 2), True),
        Column("±", "Wilson's 95 % interval", lambda row: row.low, _interval, True),
        Column("ECE", "expected calibration error, 15 bins", lambda row: row.ece, lambda row: _plain(row.ece, 4), True),
        Column(
            "Agree",
            "images with the same prediction as the reference, in percent",
            lambda row: row.agreement,
            _agreement,
            True,
        ),
        Column(
            "Difference",
            "accuracy minus that of the reference in points, with the paired 95 % interval",
            _difference,
            _difference_text,
            True,
        ),
    ]
    present = [column for column in found if any(column.value(row) not in (None, "") for row in bench.rows)]
    return [c for c in present if c.name != "Zeros" or any((row.zeros or 0) >= 0.005 for row in bench.rows)]


def bench_columns(bench: Bench) -> list[str]:
    """Return the column titles of the table."""
    return [column.name for column in columns_of(bench)]


def columns_by_priority(bench: Bench) -> list[str]:
    """Return the column titles by priority, for a terminal that is too narrow for all of them."""
    columns = bench_columns(bench)
    titles = []
    for batches, names in ((bench.batches[:1], _FIRST), (bench.batches[1:], _THEN), (bench.batches, _THEN)):
        for name in names:
            titles += [time_title(batch, name) for batch in batches] if name in _TIMES else [name]
    return [column for column in dict.fromkeys(titles) if column in columns]


def bench_cells(bench: Bench) -> list[list[str]]:
    """Return the text of every cell, by row."""
    columns = columns_of(bench)
    return [[column.text(row) for column in columns] for row in bench.rows]


def caption(bench: Bench) -> str:
    """Return processor, threads, images and reference of all rows in one line."""
    threads = f"{bench.threads} thread{'s' if bench.threads != 1 else ''}"
    counts = sorted({(row.images, row.split) for row in bench.rows if row.images})
    splits = {"val": "validation", "test": "test"}
    parts = [f"{bench.processor}, {threads}"]
    if counts:
        parts.append(" and ".join(f"{count:,} {splits.get(split, split)} images" for count, split in counts if count))
    if bench.reference and counts:
        parts.append(f"compared with {bench.reference}")
    return ", ".join(parts)


def baseline(bench: Bench) -> str:
    """Return the title of the row that the speed-ups are relative to."""
    return next((row.title for row in bench.rows if row.latencies), "")


def time_title(batch: int, figure: str) -> str:
    """Return the title of a column of times.

    >>> time_title(1, "ms"), time_title(32, "speed-up")
    ('Batch 1 ms', 'Batch 32 speed-up')
    """
    return f"Batch {batch} {figure}"


def _times(batch: int) -> list[Column]:
    def getter(name: str, scale: float = 1.0) -> Callable[[BenchRow], float | None]:
        def value(row: BenchRow) -> float | None:
            found = row.latency(batch)
            figure = None if found is None else getattr(found, name)
            return None if figure is None else scale * figure

        return value

    median, p95, ratio = getter("median", 1e3), getter("p95", 1e3), getter("speedup")
    title = {figure: time_title(batch, figure) for figure in _TIMES}
    call = f"time of a call with {batch} image{'s' if batch != 1 else ''}"
    return [
        Column(title["ms"], f"{call}: median, in milliseconds", median, lambda row: _milliseconds(median(row))),
        Column(title["p95 ms"], f"{call}: 95th percentile, in milliseconds", p95, lambda row: _milliseconds(p95(row))),
        Column(title["speed-up"], f"{call}: speed-up over the first row", ratio, lambda row: _ratio(ratio(row))),
    ]


def _milliseconds(value: float | None) -> str:
    if value is None:
        return ABSENT
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def _ratio(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0f}x" if value >= 100 else f"{value:.2f}x"


def _count(name: str) -> Callable[[BenchRow], str]:
    def text(row: BenchRow) -> str:
        value = getattr(row, name)
        return ABSENT if value is None else short_count(value)

    return text


def _size(name: str) -> Callable[[BenchRow], str]:
    def text(row: BenchRow) -> str:
        value = getattr(row, name)
        return ABSENT if value is None else format_size(value)

    return text


def _memory() -> tuple[Callable[[BenchRow], float | None], Callable[[BenchRow], str]]:
    return lambda row: row.memory, _size("memory")


def _zeros(row: BenchRow) -> str:
    return ABSENT if row.zeros is None else f"{100 * row.zeros:.0f} %"


def _per_second(row: BenchRow) -> str:
    value = row.images_per_second
    return ABSENT if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def _joules(row: BenchRow) -> str:
    return ABSENT if row.joules is None else f"{row.joules:.3g}"


def _percent(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{100 * value:.{digits}f}"


def _plain(value: float | None, digits: int) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _interval(row: BenchRow) -> str:
    return ABSENT if row.low is None or row.high is None else f"{100 * row.low:.2f} to {100 * row.high:.2f}"


def _agreement(row: BenchRow) -> str:
    return _percent(row.agreement, 2)


def _difference(row: BenchRow) -> float | None:
    return row.difference


def _difference_text(row: BenchRow) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return ABSENT
    low, high = 100 * row.difference_low, 100 * row.difference_high
    return f"{100 * row.difference:+.2f} ({low:+.2f} to {high:+.2f})"
