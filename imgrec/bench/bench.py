"""Benchmark of networks and runtimes: one process for each, timed in turn."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgrec.bench.candidates import Candidate
from imgrec.bench.evaluation import Evaluated, evaluate_candidates, reference_of, scored
from imgrec.bench.process import BenchProcess, MeasurementError
from imgrec.bench.rows import CandidateMeasurement, Options, make_notes, make_row, runtime_versions, waiting_share
from imgrec.errors import UserError
from imgrec.export.runtimes.registry import check_device
from imgrec.reports.bench.results import Bench
from imgrec.runs.environment import hardware

ROUNDS = 10
"""Number of rounds. Networks are timed in turn in each, so that a temporary load of the machine affects all."""


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
        scored(make_row(each, baseline, options), found, said, options.split)
        for each, found in zip(live, evaluated, strict=True)
    )
    machine = hardware()
    gpu = machine["gpus"][0]["name"] if options.device != "cpu" and machine["gpus"] else None
    reference = recorded or next((row.title for row in rows if row.accuracy is not None), "")
    notes = make_notes(rows, why, waiting_share(live) if options.device == "cpu" else 0.0)
    return Bench(
        rows=rows,
        reference=reference,
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=str(gpu or machine["cpu"]),
        threads=options.threads,
        versions=runtime_versions(candidates),
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
) -> CandidateMeasurement:
    live = CandidateMeasurement(candidate, precision=candidate.precision or "fp32")
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


def _refuse_what_never_opens(live: Sequence[CandidateMeasurement]) -> None:
    for source in dict.fromkeys(each.candidate.source for each in live):
        own = [each for each in live if each.candidate.source == source]
        if all(each.process is None and not each.candidate.missing for each in own):
            raise UserError(own[0].notes[0] if source in own[0].notes[0] else f"{source}: {own[0].notes[0]}")
    if all(each.process is None for each in live):
        raise UserError("; ".join(dict.fromkeys(each.notes[0] for each in live)))


def _warm(live: Sequence[CandidateMeasurement], options: Options, say: Callable[[str], None]) -> list[str]:
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


def _time(live: Sequence[CandidateMeasurement], options: Options, say: Callable[[str], None]) -> None:
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


def _evaluate(
    live: Sequence[CandidateMeasurement], options: Options, work: Path, say: Callable[[str], None]
) -> list[Evaluated]:
    def ask(place: int) -> Callable[[Path, Path], Any] | None:
        each = live[place]
        process, size = each.process, each.evaluation_batch
        if process is None or not (each.rounds or each.batch_size):
            return None
        return lambda images, logits: process.ask("predict", images=str(images), logits=str(logits), batch=size)

    candidates = [each.candidate for each in live]
    asks = [ask(place) for place in range(len(live))]
    return evaluate_candidates(candidates, asks, options.split, options.images, work, say)
