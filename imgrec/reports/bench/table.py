"""The table of a bench as people read it, in a terminal and on a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from imgrec.reports.bench.results import Bench, BenchRow
from imgrec.utils.formatting import format_size, short_count

ABSENT = "—"
LEFT = ("Network", "Runtime", "Precision")
"""The columns of text."""

_FIRST = ("Runtime", "Precision", "ms", "Accuracy", "Size", "±", "speed-up", "Params", "Zeros", "Difference", "Agree")
_TIMES = ("ms", "p95 ms", "speed-up")
_THEN = ("ms", "p95 ms", "Images/s", "ECE", "MACs", "Memory", "p95 ms", "speed-up")


@dataclass(frozen=True)
class Column:
    """A column of the table: its head, what it means, the exact value behind a cell, and its text.

    ``quality`` says that it is about what the network says of images, not about what it costs.
    """

    name: str
    meaning: str
    value: Callable[[BenchRow], float | str | None]
    text: Callable[[BenchRow], str]
    quality: bool = False


def columns_of(bench: Bench) -> list[Column]:
    """The columns of which any row has a figure."""
    found = [
        Column("Network", "", lambda row: row.name, lambda row: row.name),
        Column("Runtime", "", lambda row: row.runtime, lambda row: row.runtime),
        Column("Precision", "of most of the arithmetic", lambda row: row.precision, lambda row: row.precision),
        Column("Params", "parameters", lambda row: row.parameters, _count("parameters")),
        Column("Zeros", "parameters that are zero; no speed-up by themselves", lambda row: row.zeros, _zeros),
        Column("MACs", "multiply-accumulates for one image", lambda row: row.macs, _count("macs")),
        Column("Size", "bytes on disk", lambda row: row.bytes, _size("bytes")),
        Column("Memory", "weights and activations at the peak of a call with the largest batch", *_memory()),
    ]
    for batch in bench.batches:
        found += _times(batch)
    found += [
        Column("Images/s", "with the largest batch", lambda row: row.images_per_second, _per_second),
        Column("J/image", "energy of the processor package or GPU", lambda row: row.joules, _joules),
        Column("Accuracy", "in percent", lambda row: row.accuracy, lambda row: _percent(row.accuracy, 2), True),
        Column("±", "Wilson's 95 % interval", lambda row: row.low, _interval, True),
        Column("ECE", "expected calibration error, 15 bins", lambda row: row.ece, lambda row: _plain(row.ece, 4), True),
        Column(
            "Agree", "images named as the reference names them, in percent", lambda row: row.agreement, _agreement, True
        ),
        Column(
            "Difference", "points of accuracy, minus the reference's; paired 95 % interval", _difference, _against, True
        ),
    ]
    there = [column for column in found if any(column.value(row) not in (None, "") for row in bench.rows)]
    return [c for c in there if c.name != "Zeros" or any((row.zeros or 0) >= 0.005 for row in bench.rows)]


def bench_columns(bench: Bench) -> list[str]:
    """The heads of the table."""
    return [column.name for column in columns_of(bench)]


def by_importance(bench: Bench) -> list[str]:
    """Return the heads of the table, the most important first, for a terminal without room for all of them."""
    columns = bench_columns(bench)
    wanted = []
    for batches, words in ((bench.batches[:1], _FIRST), (bench.batches[1:], _THEN), (bench.batches, _THEN)):
        for word in words:
            wanted += [time_title(batch, word) for batch in batches] if word in _TIMES else [word]
    return [column for column in dict.fromkeys(wanted) if column in columns]


def bench_cells(bench: Bench) -> list[list[str]]:
    """The texts of the table."""
    columns = columns_of(bench)
    return [[column.text(row) for column in columns] for row in bench.rows]


def caption(bench: Bench) -> str:
    """What all rows have in common, in one line."""
    threads = f"{bench.threads} thread{'s' if bench.threads != 1 else ''}"
    counts = sorted({(row.images, row.split) for row in bench.rows if row.images})
    splits = {"val": "validation", "test": "test"}
    parts = [f"{bench.processor}, {threads}"]
    if counts:
        parts.append(" and ".join(f"{count:,} {splits.get(split, split)} images" for count, split in counts if count))
    if bench.reference and counts:
        parts.append(f"compared with {bench.reference}")
    return "; ".join(parts)


def baseline(bench: Bench) -> str:
    """The row that the ratios of time are against."""
    return next((row.title for row in bench.rows if row.latencies), "")


def time_title(batch: int, figure: str) -> str:
    """Return the head of a column of times.

    >>> time_title(1, "ms"), time_title(32, "speed-up")
    ('Batch 1 ms', 'Batch 32 speed-up')
    """
    return f"Batch {batch} {figure}"


def _times(batch: int) -> list[Column]:
    def of(name: str, scale: float = 1.0) -> Callable[[BenchRow], float | None]:
        def value(row: BenchRow) -> float | None:
            found = row.latency(batch)
            figure = None if found is None else getattr(found, name)
            return None if figure is None else scale * figure

        return value

    median, p95, ratio = of("median", 1e3), of("p95", 1e3), of("speedup")
    title = {figure: time_title(batch, figure) for figure in _TIMES}
    call = f"time of a call with {batch} image{'s' if batch != 1 else ''}"
    return [
        Column(title["ms"], f"{call}: median, in milliseconds", median, lambda row: _milliseconds(median(row))),
        Column(title["p95 ms"], f"{call}: 95th percentile, in milliseconds", p95, lambda row: _milliseconds(p95(row))),
        Column(title["speed-up"], f"{call}: times faster than the first row", ratio, lambda row: _ratio(ratio(row))),
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


def _against(row: BenchRow) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return ABSENT
    low, high = 100 * row.difference_low, 100 * row.difference_high
    return f"{100 * row.difference:+.2f} ({low:+.2f} to {high:+.2f})"
