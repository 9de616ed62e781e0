"""Benchmark of networks in runtimes, each in its own process."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from imgrec.bench.candidates import Candidate
from imgrec.bench.evaluation import EvaluatedCandidate, add_scores, evaluate_candidates, find_reference
from imgrec.bench.process import BenchProcess, MeasurementError
from imgrec.bench.rows import CandidateMeasurement, Options, make_notes, make_row, runtime_versions, waiting_share
from imgrec.errors import UserError
from imgrec.export.runtimes.registry import check_device
from imgrec.reports.bench.results import Bench
from imgrec.runs.environment import describe_hardware

ROUNDS = 10
"""Number of rounds. Networks are timed in turn in each, so that a temporary load of the machine affects all."""


def run_bench(
    candidates: Sequence[Candidate],
    options: Options,
    work: Path,
    report: Callable[[str], None] = lambda text: None,
) -> Bench:
    """Measure all candidates.

    Each network is opened in a new process with a fixed number of threads, on the same cores, and warmed up. In each
    round, all networks are timed in turn. At the end, each network predicts the images of the split of its run.

    Args:
        candidates: Networks in runtimes, see :func:`imgrec.bench.candidates.find_candidates`.
        options: Options of the benchmark.
        work: Folder for files that are passed between processes.
        report: Function that receives the current step as text. Defaults to no report.

    Raises:
        UserError: If a source can be opened in no runtime.
    """
    check_options(options)
    cores = _cores(options)
    with ExitStack() as stack:
        live = [_open(each, options, cores, stack, report) for each in candidates]
        _refuse_unopened(live)
        energy_errors = _warm(live, options, report)
        _time(live, options, report)
        evaluated = _evaluate(live, options, work, report)
    recorded, predicted = find_reference([each.candidate for each in live], evaluated, options.split, options.images)
    baseline = next((each for each in live if each.rounds), None)
    rows = tuple(
        add_scores(make_row(each, baseline, options), found, predicted, options.split)
        for each, found in zip(live, evaluated, strict=True)
    )
    machine = describe_hardware()
    gpu = machine["gpus"][0]["name"] if options.device != "cpu" and machine["gpus"] else None
    reference = recorded or next((row.title for row in rows if row.accuracy is not None), "")
    notes = make_notes(rows, energy_errors, waiting_share(live) if options.device == "cpu" else 0.0)
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
    """Raise if an option is out of range.

    Raises:
        UserError: If a batch size, a count or the budget is too small, or if there are fewer cores than threads.
    """
    if not options.batches or min(options.batches) < 1:
        raise UserError(f"--batch: expected sizes of 1 or more, got {list(options.batches)}")
    if options.budget <= 0:
        raise UserError(f"--budget: expected seconds above 0, got {options.budget}")
    if options.device.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f'--device: expected cpu or cuda, got "{options.device}"')
    if options.images is not None and options.images < 0:
        raise UserError(f"--images: expected 0 or more, got {options.images}")
    usable = len(_usable_cores())
    if not 1 <= options.threads <= usable:
        raise UserError(f"--threads: expected 1 to {usable}, the cores of this process, got {options.threads}")


def _usable_cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _cores(options: Options) -> list[int] | None:
    return _usable_cores()[: options.threads] if options.device == "cpu" else None


def _open(
    candidate: Candidate, options: Options, cores: list[int] | None, stack: ExitStack, report: Callable[[str], None]
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
    report(f"opening {candidate.name} in {candidate.runtime}")
    process = stack.enter_context(BenchProcess(options.threads))
    try:
        found = process.call(
            "open",
            **candidate.open_arguments(),
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


def _refuse_unopened(live: Sequence[CandidateMeasurement]) -> None:
    for source in dict.fromkeys(each.candidate.source for each in live):
        own = [each for each in live if each.candidate.source == source]
        if all(each.process is None and not each.candidate.missing for each in own):
            raise UserError(own[0].notes[0] if source in own[0].notes[0] else f"{source}: {own[0].notes[0]}")
    if all(each.process is None for each in live):
        raise UserError("; ".join(dict.fromkeys(each.notes[0] for each in live)))


def _warm(live: Sequence[CandidateMeasurement], options: Options, report: Callable[[str], None]) -> list[str]:
    """Call each network with each batch size. Return the reasons why energy is not measured."""
    energy_errors: list[str] = []
    for each in live:
        energy_errors += [note.removeprefix(_ENERGY) for note in each.notes if note.startswith(_ENERGY)]
        each.notes = [note for note in each.notes if not note.startswith(_ENERGY)]
        for batch in sorted(set(options.batches)):
            if each.process is None:
                continue
            verb = "compiling" if each.candidate.runtime == "compile" else "warming"
            report(f"{verb} {each.candidate.name} in {each.candidate.runtime}, batch {batch}")
            try:
                each.memory = each.process.call("warm", batch=batch)["memory"]
                each.rounds[batch] = []
            except MeasurementError as error:
                each.notes.append(f"batch {batch}: {error}")
    return list(dict.fromkeys(energy_errors))


def _time(live: Sequence[CandidateMeasurement], options: Options, report: Callable[[str], None]) -> None:
    largest = max(options.batches)
    for number in range(ROUNDS):
        report(f"timing, round {number + 1} of {ROUNDS}")
        for batch in sorted(set(options.batches)):
            timed = [each for each in live if batch in each.rounds]
            turn = number % len(timed) if timed else 0
            for each in [*timed[turn:], *timed[:turn]]:
                assert each.process is not None
                try:
                    found = each.process.call("time", batch=batch, seconds=options.budget / ROUNDS)
                except MeasurementError as error:
                    each.notes.append(f"batch {batch}: {error}")
                    del each.rounds[batch]
                    continue
                each.rounds[batch].append(found["seconds"])
                each.computed += found["computed"]
                if batch == largest and found["joules"] is not None:
                    each.joules = (each.joules or 0.0) + found["joules"]


def _evaluate(
    live: Sequence[CandidateMeasurement], options: Options, work: Path, report: Callable[[str], None]
) -> list[EvaluatedCandidate]:
    def make_predict(each: CandidateMeasurement) -> Callable[[Path, Path], Any] | None:
        process, size = each.process, each.evaluation_batch
        if process is None or not (each.rounds or each.batch_size):
            return None
        return lambda images, logits: process.call("predict", images=str(images), logits=str(logits), batch=size)

    candidates = [each.candidate for each in live]
    predicts = [make_predict(each) for each in live]
    return evaluate_candidates(candidates, predicts, options.split, options.images, work, report)
