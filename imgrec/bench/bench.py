"""Measure networks and runtimes by one yardstick: each in a process of its own, all in turn."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from imgrec.bench.candidates import Candidate
from imgrec.bench.evaluation import Evaluated, evaluate_candidates, reference_of, scored
from imgrec.bench.process import BenchProcess, MeasurementError
from imgrec.errors import UserError
from imgrec.export.runtimes.registry import check_device
from imgrec.reports.bench.results import Bench, BenchRow, Latency, percentile
from imgrec.runs.environment import hardware

ROUNDS = 10
"""In each, every network is timed for a tenth of the budget: what slows the machine for a while slows all alike."""

_BUSY = 0.1  # the share of waiting from which it is said
_SPARSE = 0.02  # the share of zeros from which a row is called sparse


@dataclass(frozen=True)
class Options:
    """How a bench is made.

    Attributes:
        batches: the sizes that are timed.
        threads: how many compute, on as many cores.
        device: ``cpu`` or ``cuda``.
        budget: seconds of timing for each row and batch size.
        split: whose images: ``test`` or ``val``.
        images: how many of them, chosen by their ids; all by default, and none at 0.
    """

    batches: Sequence[int] = (1, 32)
    threads: int = 1
    device: str = "cpu"
    budget: float = 3.0
    split: Literal["val", "test"] = "test"
    images: int | None = None


@dataclass
class _Live:
    """A candidate whose process is open, and what was measured so far."""

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
        return self.batch_size or max(self.rounds, default=1)


def run_bench(
    candidates: Sequence[Candidate],
    options: Options,
    work: Path,
    say: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measure all candidates.

    Each is opened in a fresh process with a fixed number of threads, all on the same cores, and warmed; then all are
    timed in turn, round after round; then each names the images of its run's split.

    Args:
        candidates: see :func:`imgrec.bench.candidates.find_candidates`.
        options: how.
        work: a folder for what is passed between processes.
        say: is told what happens now.

    Raises:
        UserError: a source can be opened in no runtime.
    """
    check_options(options)
    cores = _cores(options)
    with ExitStack() as stack:
        live = [_open(each, options, cores, stack, say) for each in candidates]
        _refuse_what_never_opens(live)
        why = _warm(live, options, say)
        _time(live, options, say)
        evaluated = _evaluate(live, options, work, say)
    recorded, said = reference_of([each.candidate for each in live], evaluated, options.split, options.images)
    baseline = next((each for each in live if each.rounds), None)
    rows = tuple(
        scored(_row(each, baseline, options), found, said, options.split)
        for each, found in zip(live, evaluated, strict=True)
    )
    machine = hardware()
    gpu = machine["gpus"][0]["name"] if options.device != "cpu" and machine["gpus"] else None
    reference = recorded or next((row.title for row in rows if row.accuracy is not None), "")
    notes = _notes(rows, why, _waited(live) if options.device == "cpu" else 0.0)
    return Bench(
        rows=rows,
        reference=reference,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=str(gpu or machine["cpu"]),
        threads=options.threads,
        versions=_versions(candidates),
        notes=notes,
    )


def check_options(options: Options) -> None:
    """Raise for what cannot be measured.

    Raises:
        UserError: a batch size, a count or a budget below what makes sense; more threads than cores.
    """
    if not options.batches or min(options.batches) < 1:
        raise UserError(f"--batch: expected sizes of 1 or more, got {list(options.batches)}")
    if options.budget <= 0:
        raise UserError(f"--budget: expected seconds above 0, got {options.budget}")
    if options.device.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f'--device: accepted are cpu and cuda, got "{options.device}"')
    if options.images is not None and options.images < 0:
        raise UserError(f"--images: expected 0 or more, got {options.images}")
    usable = len(_usable_cores())
    if not 1 <= options.threads <= usable:
        raise UserError(f"--threads: this process may use 1 to {usable} cores, got {options.threads}")


def _usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cores(options: Options) -> list[int] | None:
    return _usable_cores()[: options.threads] if options.device == "cpu" else None


def _open(
    candidate: Candidate, options: Options, cores: list[int] | None, stack: ExitStack, say: Callable[[str], None]
) -> _Live:
    live = _Live(candidate, precision=candidate.precision or "fp32")
    if candidate.missing:
        live.notes.append(candidate.missing)
        return live
    try:
        check_device(candidate.runtime, options.device, "--device")
    except UserError as error:
        live.notes.append(str(error))
        return live
    say(f"opening {candidate.name} in {candidate.runtime}")
    process = stack.enter_context(BenchProcess(options.threads))
    try:
        found = process.ask(
            "open",
            **candidate.opened(),
            threads=options.threads,
            device=options.device,
            cores=cores,
        )
    except MeasurementError as error:
        live.notes.append(str(error))
        process.close()
        return live
    live.process, live.precision, live.batch_size = process, found["precision"], found["batch_size"]
    live.notes += [] if found["no_energy"] is None else [_ENERGY + found["no_energy"]]
    return live


_ENERGY = "energy: "


def _refuse_what_never_opens(live: Sequence[_Live]) -> None:
    for source in dict.fromkeys(each.candidate.source for each in live):
        own = [each for each in live if each.candidate.source == source]
        if all(each.process is None and not each.candidate.missing for each in own):
            raise UserError(own[0].notes[0] if source in own[0].notes[0] else f"{source}: {own[0].notes[0]}")
    if all(each.process is None for each in live):
        raise UserError("; ".join(dict.fromkeys(each.notes[0] for each in live)))


def _warm(live: Sequence[_Live], options: Options, say: Callable[[str], None]) -> list[str]:
    """Call each network with each batch size; gives why energy is not measured, where it is not."""
    why: list[str] = []
    for each in live:
        why += [note.removeprefix(_ENERGY) for note in each.notes if note.startswith(_ENERGY)]
        each.notes = [note for note in each.notes if not note.startswith(_ENERGY)]
        for batch in sorted(set(options.batches)):
            if each.process is None:
                continue
            verb = "compiling" if each.candidate.runtime == "compile" else "warming"
            say(f"{verb} {each.candidate.name} in {each.candidate.runtime}, batch {batch}")
            try:
                each.memory = each.process.ask("warm", batch=batch)["memory"]
                each.rounds[batch] = []
            except MeasurementError as error:
                each.notes.append(f"batch {batch}: {error}")
    return list(dict.fromkeys(why))


def _time(live: Sequence[_Live], options: Options, say: Callable[[str], None]) -> None:
    largest = max(options.batches)
    for number in range(ROUNDS):
        say(f"timing, round {number + 1} of {ROUNDS}")
        for batch in sorted(set(options.batches)):
            there = [each for each in live if batch in each.rounds]
            turn = number % len(there) if there else 0
            for each in [*there[turn:], *there[:turn]]:
                assert each.process is not None
                try:
                    found = each.process.ask("time", batch=batch, seconds=options.budget / ROUNDS)
                except MeasurementError as error:
                    each.notes.append(f"batch {batch}: {error}")
                    del each.rounds[batch]
                    continue
                each.rounds[batch].append(found["seconds"])
                each.computed += found["computed"]
                if batch == largest and found["joules"] is not None:
                    each.joules = (each.joules or 0.0) + found["joules"]


def _evaluate(live: Sequence[_Live], options: Options, work: Path, say: Callable[[str], None]) -> list[Evaluated]:
    def ask(place: int) -> Callable[[Path, Path], Any] | None:
        each = live[place]
        process, size = each.process, each.evaluation_batch
        if process is None or not (each.rounds or each.batch_size):
            return None
        return lambda images, logits: process.ask("predict", images=str(images), logits=str(logits), batch=size)

    candidates = [each.candidate for each in live]
    asks = [ask(place) for place in range(len(live))]
    return evaluate_candidates(candidates, asks, options.split, options.images, work, say)


def _row(live: _Live, baseline: _Live | None, options: Options) -> BenchRow:
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


def _versions(candidates: Sequence[Candidate]) -> str:
    packages = {"compile": "torch"}
    names = dict.fromkeys(packages.get(each.runtime, each.runtime) for each in candidates if not each.missing)
    return ", ".join(f"{name} {version(name)}" for name in names)


def _waited(live: Sequence[_Live]) -> float:
    """The share of the timed seconds in which the calls did not compute: others had the core."""
    timed = sum(seconds for each in live for rounds in each.rounds.values() for calls in rounds for seconds in calls)
    return max(0.0, 1 - sum(each.computed for each in live) / timed) if timed else 0.0


def _notes(rows: Sequence[BenchRow], why: Sequence[str], waited: float) -> tuple[str, ...]:
    notes = []
    if waited > _BUSY:
        notes.append(
            f"The machine was busy: {100 * waited:.0f} % of the timed seconds were spent on waiting for a core. "
            "The latencies are longer than on an idle machine, and their ratios uncertain."
        )
    if any((row.zeros or 0) > _SPARSE for row in rows):
        notes.append(
            "Zeros are counted and are not a speed-up: a dense kernel multiplies them like other numbers. "
            "What a row gains is in its measured latency alone."
        )
    if why and all(row.joules is None for row in rows):
        notes.append(f"Energy was not measured ({'; '.join(why)}).")
    if len({row.images for row in rows if row.images}) > 1:
        notes.append("The accuracies are of different images: see the count of each.")
    return tuple(notes)
