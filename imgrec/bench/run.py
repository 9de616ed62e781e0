"""Benchmark of runs and exports: ``imgrec.bench_runs`` and ``imgrec bench``."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from imgrec.trust import Trust, opening

if TYPE_CHECKING:
    from imgrec.bench.rows import Options
    from imgrec.models import Classifier
    from imgrec.reports.bench.results import Bench
    from imgrec.types import DataFacts


def bench_runs(
    *sources: str | Path,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batches: Sequence[int] = (1, 32),
    threads: int = 1,
    device: str = "cpu",
    budget: float = 3.0,
    split: Literal["val", "test"] = "test",
    images: int | None = None,
    trust: Trust = None,
) -> Bench:
    """Measure size, memory, latency and accuracy of runs and exports, each in a separate process.

    Args:
        sources: Run folders, checkpoints, model folders or exports. The first one is the baseline.
        runtimes: Names of runtimes, or ``["all"]``. Defaults to the installed ones without ``compile``.
        precisions: Precisions of PyTorch and OpenVINO: ``fp32``, ``bf16``, ``fp16``. Defaults to ``fp32``.
        batches: Batch sizes. Defaults to 1 and 32.
        threads: Number of threads, on as many cores. Defaults to 1.
        device: ``cpu`` or ``cuda``. Defaults to ``cpu``.
        budget: Seconds of timing per row and batch size, above 0. Defaults to 3.
        split: Split for the accuracy. Defaults to ``test``.
        images: Number of images to evaluate on, the same for every model. 0 skips accuracy. Defaults to all images.
        trust: Names of classes and modules that the sources may contain in addition to the registries. ``True`` allows
            every name. Defaults to none.

    Raises:
        UserError: If a source cannot be opened, or an argument is invalid.

    Example::

        bench = imgrec.bench_runs("runs/digits/quickstart/20261121-143005", runtimes=["torch"], batches=[1])
        print(bench.rows[0].title)
    """
    from imgrec.bench.rows import Options

    options = Options(tuple(dict.fromkeys(batches)), threads, device, budget, split, images)
    with opening("bench", trust):
        return measure_sources([str(each) for each in sources], runtimes, precisions, options)[0]


def measure_sources(
    sources: Sequence[str],
    runtimes: Sequence[str] | None,
    precisions: Sequence[str] | None,
    options: Options,
    report: Callable[[str], None] = lambda text: None,
) -> tuple[Bench, Path | None]:
    """Measure sources as :func:`bench_runs` does. Return the result and the run folder of the first source.

    Args:
        sources: Paths of runs and exports.
        runtimes: Names of runtimes.
        precisions: Names of precisions.
        options: Options of the measurement.
        report: Function that receives the current step as text. Defaults to no report.
    """
    from imgrec.bench.bench import check_options, run_bench
    from imgrec.bench.candidates import find_candidates
    from imgrec.export.runtimes.registry import runtime_names

    check_options(options)
    names = runtime_names() if runtimes is not None and list(runtimes) == ["all"] else runtimes
    with tempfile.TemporaryDirectory(prefix="imgrec-bench-") as work:
        report("reading")
        candidates = find_candidates(sources, names, precisions, Path(work), _export)
        bench = run_bench(candidates, options, Path(work), report)
    first = candidates[0].run
    return bench, None if first is None else first.path


def _export(classifier: Classifier, facts: DataFacts, folder: Path, format: str) -> Path:
    from imgrec.export.export_network import export_network

    return export_network(classifier, facts, folder, format).folder
