"""Results of a benchmark and their CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from imgrec.errors import UserError
from imgrec.utils.csv_files import restored, rows_written

BENCH_FILE = "bench.csv"
"""File in a run folder with the benchmark of the run."""


@dataclass(frozen=True)
class Latency:
    """Time of a call with one batch, over all measured calls.

    Attributes:
        batch: Batch size.
        median: Median in seconds.
        p95: 95th percentile in seconds.
        calls: Number of measured calls.
        speedup: Ratio of the time of the first row to this time, as the median over the rounds.
    """

    batch: int
    median: float
    p95: float
    calls: int
    speedup: float | None = None


@dataclass(frozen=True)
class BenchRow:
    """Results of one model in one runtime. ``None`` if a figure is not available, with the reason in ``note``.

    Attributes:
        name: Display name of the model.
        source: Path of the model.
        runtime: Name of an entry of :data:`imgrec.RUNTIMES`.
        precision: Precision of most of the arithmetic.
        parameters: Number of parameters.
        nonzero: Number of nonzero parameters. Stored zeros reduce neither time nor memory.
        macs: Multiply-accumulates per image.
        bytes: Size of the files that the runtime opens.
        memory: Peak of a call with the largest batch in bytes: weights and activations, without the libraries.
        latencies: Latency for every batch size.
        images_per_second: Throughput with the largest batch.
        joules: Energy of the package or GPU per image, with the largest batch.
        split: Split of the images of the following figures, ``test`` or ``val``.
        images: Number of these images.
        accuracy: Fraction of correct images.
        low: Lower end of Wilson's 95 % interval of the accuracy.
        high: Upper end of this interval.
        ece: Expected calibration error, with 15 bins.
        agreement: Fraction of the images with the same prediction as the reference.
        difference: Accuracy minus that of the reference.
        difference_low: Lower end of the paired bootstrap 95 % interval of ``difference``.
        difference_high: Upper end of this interval.
        note: Remark on this row.
    """

    name: str
    source: str
    runtime: str
    precision: str
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    bytes: int | None = None
    memory: int | None = None
    latencies: tuple[Latency, ...] = ()
    images_per_second: float | None = None
    joules: float | None = None
    split: str = ""
    images: int | None = None
    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    ece: float | None = None
    agreement: float | None = None
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """Model, runtime and precision in one line."""
        return f"{self.name}, {self.runtime} {self.precision}"

    @property
    def zeros(self) -> float | None:
        """Fraction of the parameters that are zero."""
        if self.parameters is None or self.nonzero is None:
            return None
        return 1 - self.nonzero / max(1, self.parameters)

    def latency(self, batch: int) -> Latency | None:
        """Return the latency for a batch size, or ``None``."""
        return next((each for each in self.latencies if each.batch == batch), None)


@dataclass(frozen=True)
class Bench:
    """Results of a benchmark.

    Attributes:
        rows: Results of all models and runtimes, in the requested order.
        reference: Row that ``agreement`` and ``difference`` compare with. Empty without a comparison.
        measured: Time of the measurement, in UTC.
        processor: Name of the CPU or GPU.
        threads: Number of threads.
        versions: Versions of the runtimes: ``torch 2.15.0, onnxruntime 1.31.0``.
        notes: Remarks on all rows.
    """

    rows: tuple[BenchRow, ...]
    reference: str
    measured: str
    processor: str
    threads: int
    versions: str = ""
    notes: tuple[str, ...] = ()

    @property
    def batches(self) -> list[int]:
        """All measured batch sizes, sorted."""
        return sorted({each.batch for row in self.rows for each in row.latencies})

    def to_dict(self) -> dict[str, Any]:
        """Return the results as JSON-serializable data."""
        return asdict(self)


_ROW_FIELDS = [field.name for field in fields(BenchRow) if field.name != "latencies"]
_SHARED = ("reference", "measured", "processor", "threads", "versions")
_TIMES = ("median", "p95", "calls", "speedup")


def write_bench(path: str | Path, bench: Bench) -> None:
    """Write the rows as CSV, atomically, with unrounded figures in seconds and bytes. Shared fields are in every row.

    The columns of a batch size end with its number: ``seconds_b1``, ``p95_b1``, ``calls_b1``, ``speedup_b1``.
    """
    times = [f"{_column(name)}_b{batch}" for batch in bench.batches for name in _TIMES]
    with rows_written(path) as write:
        write([*_ROW_FIELDS, *times, *_SHARED, "notes"])
        for row in bench.rows:
            found = [row.latency(batch) for batch in bench.batches]
            cells = [getattr(row, name) for name in _ROW_FIELDS]
            cells += [None if each is None else getattr(each, name) for each in found for name in _TIMES]
            cells += [getattr(bench, name) for name in _SHARED]
            write(["" if cell is None else cell for cell in [*cells, "\n".join(bench.notes)]])


def read_bench(path: str | Path) -> Bench:
    """Read a file of :func:`write_bench`.

    Raises:
        UserError: If the file is missing or broken.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            found = list(csv.DictReader(file))
        shared = found[0]
        batches = sorted(int(name.removeprefix("seconds_b")) for name in shared if name.startswith("seconds_b"))
        rows = tuple(_row(each, batches) for each in found)
        notes = tuple(line for line in restored(shared["notes"]).split("\n") if line)
        return Bench(
            rows=rows,
            reference=restored(shared["reference"]),
            measured=restored(shared["measured"]),
            processor=restored(shared["processor"]),
            threads=int(shared["threads"]),
            versions=restored(shared["versions"]),
            notes=notes,
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: expected a file of `imgrec bench`, got {type(error).__name__}: {error}") from error


def _row(cells: dict[str, str], batches: Sequence[int]) -> BenchRow:
    types = get_type_hints(BenchRow)
    values: dict[str, Any] = {}
    for name in _ROW_FIELDS:
        kind = types[name]
        text = cells[name]
        if kind is str:
            values[name] = restored(text)
        elif text:
            values[name] = int(text) if kind == int | None else float(text)
    latencies = []
    for batch in batches:
        seconds, p95, calls, speedup = (cells[f"{_column(name)}_b{batch}"] for name in _TIMES)
        if seconds:
            ratio = float(speedup) if speedup else None
            latencies.append(Latency(batch, float(seconds), float(p95), int(calls), ratio))
    return BenchRow(**values, latencies=tuple(latencies))


def _column(name: str) -> str:
    return "seconds" if name == "median" else name


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed.

    >>> percentile([5.0, 1.0, 2.0, 3.0, 4.0], 0.95), percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    (5.0, 2.0)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
