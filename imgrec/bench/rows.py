"""Rows of a benchmark table, from the measurements of each network."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Literal

from imgrec.bench.candidates import Candidate
from imgrec.bench.process import BenchProcess
from imgrec.export.runtimes.registry import runtime_class
from imgrec.reports.bench.results import BenchRow, Latency, percentile

_BUSY = 0.1  # share of waiting above which a note is added
_SPARSE = 0.02  # share of zeros above which a row counts as sparse


@dataclass(frozen=True)
class Options:
    """Options of a benchmark.

    Attributes:
        batches: Batch sizes to time.
        threads: Number of threads, and of cores that the processes are restricted to.
        device: ``cpu`` or ``cuda``.
        budget: Seconds of timing for each row and batch size.
        split: Split to evaluate on, ``test`` or ``val``.
        images: Number of images to evaluate on, selected by their ids. 0 skips accuracy. Defaults to all.
    """

    batches: Sequence[int] = (1, 32)
    threads: int = 1
    device: str = "cpu"
    budget: float = 3.0
    split: Literal["val", "test"] = "test"
    images: int | None = None


@dataclass
class CandidateMeasurement:
    """Open process of a candidate and its measurements so far.

    Attributes:
        candidate: Network and runtime.
        process: Process that runs the network, or ``None`` if it could not be opened.
        precision: Precision of most of the arithmetic.
        batch_size: The only accepted batch size, or ``None`` if any is accepted.
        memory: Bytes of the largest call, or ``None`` if unknown.
        rounds: Seconds of each call by batch size and round.
        joules: Energy of the calls with the largest batch, or ``None`` if not measured.
        computed: Seconds of CPU time in the timed calls.
        notes: Remarks for the row.
    """

    candidate: Candidate
    process: BenchProcess | None = None
    precision: str = "fp32"
    batch_size: int | None = None
    memory: int | None = None
    rounds: dict[int, list[list[float]]] = field(default_factory=dict)
    joules: float | None = None
    computed: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def evaluation_batch(self) -> int:
        """Batch size for the evaluation."""
        return self.batch_size or max(self.rounds, default=1)


def make_row(live: CandidateMeasurement, baseline: CandidateMeasurement | None, options: Options) -> BenchRow:
    """Return the row of a network. Speed-ups are medians over rounds, relative to ``baseline``."""
    candidate, counts = live.candidate, live.candidate.counts or {}
    latencies = []
    for batch, rounds in sorted(live.rounds.items()):
        calls = [seconds for each in rounds for seconds in each]
        ratio = None
        if baseline is not None and batch in baseline.rounds:
            pairs = zip(baseline.rounds[batch], rounds, strict=False)
            ratio = statistics.median(statistics.median(theirs) / statistics.median(own) for theirs, own in pairs)
        latencies.append(Latency(batch, statistics.median(calls), percentile(calls, 0.95), len(calls), ratio))
    largest = max(options.batches)
    calls_of_largest = sum(map(len, live.rounds.get(largest, [])))
    row = BenchRow(
        candidate.name,
        candidate.source,
        candidate.runtime,
        live.precision,
        parameters=counts.get("parameters"),
        nonzero=counts.get("nonzero"),
        macs=counts.get("macs"),
        bytes=counts.get("bytes"),
        memory=live.memory if largest in live.rounds else None,
        latencies=tuple(latencies),
        note="; ".join(live.notes),
    )
    if largest in live.rounds:
        row = replace(row, images_per_second=largest / latencies[-1].median)
    if live.joules is not None and calls_of_largest:
        row = replace(row, joules=live.joules / (calls_of_largest * largest))
    return row


def runtime_versions(candidates: Sequence[Candidate]) -> str:
    """Return the names and versions of the packages of the measured runtimes."""
    classes = [runtime_class(each.runtime) for each in candidates if not each.missing]
    modules = [cls.package[0] if cls.package else "torch" for cls in classes if cls.package or not cls.suffixes]
    return ", ".join(f"{name} {version(name)}" for name in dict.fromkeys(modules))


def waiting_share(live: Sequence[CandidateMeasurement]) -> float:
    """Return the share of the timed seconds in which the calls waited for a core."""
    timed = sum(seconds for each in live for rounds in each.rounds.values() for calls in rounds for seconds in calls)
    return max(0.0, 1 - sum(each.computed for each in live) / timed) if timed else 0.0


def make_notes(rows: Sequence[BenchRow], energy_errors: Sequence[str], waited: float) -> tuple[str, ...]:
    """Return the remarks below the table.

    Args:
        rows: Rows of the table.
        energy_errors: Reasons why energy was not measured.
        waited: Share of time in which calls waited for a core.
    """
    notes = []
    if waited > _BUSY:
        notes.append(
            f"The machine was busy: {100 * waited:.0f} % of the timed seconds were spent on waiting for a core. "
            "The latencies are longer than on an idle machine, and their ratios uncertain."
        )
    if any((row.zeros or 0) > _SPARSE for row in rows):
        notes.append(
            "Zeros are counted and are not a speed-up: a dense kernel multiplies them like other numbers. "
            "Compare the measured latencies instead."
        )
    if energy_errors and all(row.joules is None for row in rows):
        notes.append(f"Energy was not measured ({'; '.join(energy_errors)}).")
    if len({row.images for row in rows if row.images}) > 1:
        notes.append("The accuracies are of different images: see the count of each.")
    return tuple(notes)
