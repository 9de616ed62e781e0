"""What a bench found: a row a network and runtime, as plain figures, in a CSV that a run folder can hold."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from imgrec.errors import UserError
from imgrec.utils.csv_files import restored, rows_written

BENCH = "bench.csv"
"""The file of a run folder that holds what was measured of the run."""


@dataclass(frozen=True)
class Latency:
    """How long a call with one batch takes, in seconds, over all measured calls.

    ``speedup`` is how many times faster it is than the first row: the median over the rounds of the ratio in each.
    """

    batch: int
    median: float
    p95: float
    calls: int
    speedup: float | None = None


@dataclass(frozen=True)
class BenchRow:
    """The figures of one network in one runtime; ``None`` where there is none, and ``note`` says why.

    Attributes:
        name: the network, as a person calls it.
        source: the path that was given.
        runtime: see :data:`imgrec.RUNTIMES`.
        precision: what most of the arithmetic is done in.
        parameters: how many numbers were learnt.
        nonzero: how many of them are not zero; zeros save nothing where they are stored and multiplied.
        macs: multiply-accumulates for one image.
        bytes: of the files that the runtime opens.
        memory: bytes at the peak of a call with the largest batch: weights and activations, without the libraries.
        latencies: one a batch size.
        images_per_second: with the largest batch.
        joules: of the package or GPU for one image, with the largest batch.
        split: ``test`` or ``val``: whose images the following figures are of.
        images: how many.
        accuracy: the share that was named correctly.
        low: of Wilson's 95 % interval.
        high: likewise.
        ece: the expected calibration error, 15 bins.
        agreement: the share of the images that it and the reference name alike.
        difference: the accuracy minus the reference's.
        difference_low: of the paired bootstrap's 95 % interval over images.
        difference_high: likewise.
        note: what is to be known of this row.
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
        """The network and how it was run, in one line."""
        return f"{self.name}, {self.runtime} {self.precision}"

    @property
    def zeros(self) -> float | None:
        """The share of parameters that are zero."""
        if self.parameters is None or self.nonzero is None:
            return None
        return 1 - self.nonzero / max(1, self.parameters)

    def latency(self, batch: int) -> Latency | None:
        """What was measured with a batch size."""
        return next((each for each in self.latencies if each.batch == batch), None)


@dataclass(frozen=True)
class Bench:
    """All rows of a bench, and what they have in common.

    Attributes:
        rows: in the order in which they were asked for.
        reference: what ``agreement`` and ``difference`` compare with; empty where nothing is compared.
        measured: when, in UTC.
        processor: on what: the processor's name, or the GPU's.
        threads: how many computed.
        versions: of the runtimes: ``torch 2.15.0, onnxruntime 1.31.0``.
        notes: what is to be known of all rows.
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
        """The batch sizes that any row was measured with."""
        return sorted({each.batch for row in self.rows for each in row.latencies})

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return asdict(self)


_OWN = [field.name for field in fields(BenchRow) if field.name != "latencies"]
_SHARED = ("reference", "measured", "processor", "threads", "versions")
_TIMES = ("median", "p95", "calls", "speedup")


def write_bench(path: str | Path, bench: Bench) -> None:
    """Write the rows as CSV, whole or not at all: figures unrounded, seconds and bytes; what is shared in each row.

    The columns of a batch size end in its number: ``seconds_b1``, ``p95_b1``, ``calls_b1``, ``speedup_b1``.
    """
    times = [f"{_column(name)}_b{batch}" for batch in bench.batches for name in _TIMES]
    with rows_written(path) as write:
        write([*_OWN, *times, *_SHARED, "notes"])
        for row in bench.rows:
            found = [row.latency(batch) for batch in bench.batches]
            cells = [getattr(row, name) for name in _OWN]
            cells += [None if each is None else getattr(each, name) for each in found for name in _TIMES]
            cells += [getattr(bench, name) for name in _SHARED]
            write(["" if cell is None else cell for cell in [*cells, "\n".join(bench.notes)]])


def read_bench(path: str | Path) -> Bench:
    """Read what :func:`write_bench` wrote.

    Raises:
        UserError: it is no such file.
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
        raise UserError(f"{path} does not hold what `imgrec bench` writes: {type(error).__name__}: {error}") from error


def _row(cells: dict[str, str], batches: Sequence[int]) -> BenchRow:
    types = get_type_hints(BenchRow)
    values: dict[str, Any] = {}
    for name in _OWN:
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
    """The smallest value that at least ``share`` of the values do not exceed.

    >>> percentile([5.0, 1.0, 2.0, 3.0, 4.0], 0.95), percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    (5.0, 2.0)
    """
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
