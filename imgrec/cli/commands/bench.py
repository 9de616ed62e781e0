"""``imgrec bench``: measure the latency, size, memory and accuracy of models and runtimes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from imgrec.cli.option_types import FileName, Number
from imgrec.cli.output import write_files
from imgrec.cli.parser import Parser
from imgrec.utils.ranges import NonNegativeInt, PositiveFloat, PositiveInt
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.reports.bench.results import Bench

_EPILOG = """A run is measured in PyTorch, in ONNX Runtime and OpenVINO if they are installed, and in each of its
exports. Each row is measured in its own process, and all rows are timed in turn. The times are those of whole calls,
from images in memory to logits in memory. Accuracy is measured on the images of the run. Zeros of a pruned model are
counted. They do not make it faster."""


def run(command: str, words: list[str]) -> int:
    """Print the table, and write the requested files and bench.csv in the first run."""
    arguments = _parser().parse_args(words)

    from imgrec.bench.rows import Options
    from imgrec.bench.run import measure_sources
    from imgrec.reports.bench.results import BENCH_FILE, write_bench

    options = Options(
        batches=tuple(dict.fromkeys(arguments.batch)),
        threads=arguments.threads,
        device=arguments.device,
        budget=arguments.budget,
        split=arguments.split,
        images=arguments.images,
    )
    with _Progress() as report:
        bench, home = measure_sources(arguments.sources, arguments.runtime, arguments.precision, options, report)
    _print(bench)
    record = None if home is None or arguments.no_record else str(home / BENCH_FILE)
    write_files(
        [
            (record, lambda path: write_bench(path, bench)),
            (arguments.csv, lambda path: write_bench(path, bench)),
            (arguments.json, lambda path: _write_json(bench, path)),
            (arguments.out, lambda path: _write_page(bench, path)),
            (arguments.picture, lambda path: _write_figure(bench, path)),
        ]
    )
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="imgrec bench",
        description="Measure runs and exports: parameters, MACs, bytes, memory, latency, accuracy.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "sources", nargs="+", metavar="RUN|EXPORT", help="run folders, checkpoints, model folders, folders of exports, "
        ".onnx and .xml files. The others are compared with the first"
    )  # fmt: skip
    parser.add_argument(
        "--runtime", nargs="+", metavar="NAME", help="names of `imgrec list runtimes`, or all (default: all except "
        "compile)"
    )  # fmt: skip
    parser.add_argument(
        "--precision", nargs="+", metavar="P", help="precision of runtimes with a choice: fp32, bf16, fp16"
    )
    count = Number(PositiveInt)
    parser.add_argument("--batch", nargs="+", type=count, default=[1, 32], metavar="N", help="batch sizes")
    parser.add_argument("--threads", type=count, default=1, metavar="N", help="number of threads")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument(
        "--budget", type=Number(PositiveFloat), default=3.0, metavar="SECONDS", help="time per row and batch size, in "
        "seconds"
    )  # fmt: skip
    parser.add_argument("--split", choices=("test", "val"), default="test", help="split of the images")
    parser.add_argument(
        "--images", type=Number(NonNegativeInt), metavar="N", help="number of images to evaluate on, the same for "
        "every model. 0 skips accuracy"
    )  # fmt: skip
    parser.add_argument("--csv", metavar="FILE", help="write the figures, unrounded")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--out", metavar="FILE.html", help="write a page with accuracy over latency, and the table")
    parser.add_argument(
        "--picture", type=FileName(".png", ".svg", ".pdf"), metavar="FILE", help="write the figure of accuracy over "
        "latency: .png, .svg or .pdf"
    )  # fmt: skip
    parser.add_argument("--no-record", action="store_true", help="do not write bench.csv in the run folder")
    return parser


def _write_json(bench: Bench, path: Path) -> None:
    from imgrec.runs.summary import write_json

    write_json(path, bench.to_dict())


def _write_page(bench: Bench, path: Path) -> None:
    from imgrec.reports.bench.html import write_bench_page

    write_bench_page(bench, path)


def _write_figure(bench: Bench, path: Path) -> None:
    from imgrec.reports.bench.figures import write_figure

    write_figure(bench, path)


def _print(bench: Bench) -> None:
    from imgrec.cli.output import console_for, print_table
    from imgrec.reports.bench.table import LEFT, bench_cells, bench_columns, caption, columns_by_priority

    print(f"{caption(bench)}\n")
    columns = bench_columns(bench)
    left_out = print_table(
        console_for(10_000), columns, bench_cells(bench), left=LEFT, order=columns_by_priority(bench)
    )
    if left_out:
        print(f"\nnot shown, the terminal is too narrow: {', '.join(left_out)}. --csv and --out contain them")
    if bench.rows:
        print()
    for row in bench.rows:
        if row.note:
            print(f"{row.title}: {row.note}")
    for note in bench.notes:
        print(f"note: {note}")


class _Progress:
    """Progress on stderr: a changing line on a terminal, otherwise one line per stage."""

    def __enter__(self) -> Callable[[str], None]:
        from imgrec.utils.console import PlainConsole

        console = PlainConsole(stderr=True)
        self._status = console.status("") if console.is_terminal else None
        self._stage = ""
        if self._status is not None:
            self._status.start()
        return self._report

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def _report(self, text: str) -> None:
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(text))
            return
        stage = text.partition(",")[0]
        if stage != self._stage:
            self._stage = stage
            print(stage, file=sys.stderr, flush=True)
