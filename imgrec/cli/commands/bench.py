"""``imgrec bench``: networks and runtimes by one yardstick: time, bytes, memory, accuracy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from imgrec.cli.parser import Parser
from imgrec.cli.written import write_each
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.reports.bench.results import Bench

_PICTURES = (".png", ".svg", ".pdf")
_EPILOG = """A run stands for its network in PyTorch, ONNX Runtime and OpenVINO, as far as they are installed, and for
each of its exports. Every row is measured in a process of its own, and all are timed in turn; the times are of whole
calls, from images in memory to logits in memory. Accuracy is of the run's own images. Zeros of a pruned network are
counted; they are no speed-up."""


def run(command: str, words: list[str]) -> int:
    """Print the table; write the files that are asked for, and bench.csv into the first given run."""
    parser = Parser(
        prog="imgrec bench",
        description="Measure runs and exports by one yardstick: parameters, MACs, bytes, memory, latency, accuracy.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="RUN|EXPORT",
        help="run folders, checkpoints, model folders, folders of exports, files .onnx and .xml; the first one is "
        "what the others are compared with",
    )
    parser.add_argument(
        "--runtime",
        nargs="+",
        metavar="NAME",
        help="names of `imgrec list runtimes`, or all (default: all but compile)",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        metavar="P",
        help="precision to compute in, for the runtimes that have a choice: fp32, bf16, fp16",
    )
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32], metavar="N", help="default: 1 32")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="on as many cores (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1")
    parser.add_argument(
        "--budget", type=float, default=3.0, metavar="S", help="seconds of timing, a row and batch size (default: 3)"
    )
    parser.add_argument("--split", choices=("test", "val"), default="test", help="whose images (default: test)")
    parser.add_argument(
        "--images", type=int, metavar="N", help="evaluate on so many of them, the same for all; 0: no accuracy"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the figures, unrounded")
    parser.add_argument("--json", metavar="FILE", help="the same as JSON")
    parser.add_argument("--out", metavar="FILE.html", help="write a page: accuracy over latency, and the table")
    parser.add_argument("--picture", metavar="FILE", help="write accuracy over latency alone: .png, .svg or .pdf")
    parser.add_argument("--no-record", action="store_true", help="leave the run folder alone: write no bench.csv there")
    arguments = parser.parse_args(words)
    if arguments.picture is not None and Path(arguments.picture).suffix not in _PICTURES:
        raise UserError(f"--picture {arguments.picture}: expected a name that ends in {', '.join(_PICTURES)}")

    from imgrec.bench.rows import Options
    from imgrec.bench.run import measure_sources
    from imgrec.reports.bench.results import BENCH, write_bench

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
    record = None if home is None or arguments.no_record else str(home / BENCH)
    write_each(
        [
            (record, lambda path: write_bench(path, bench)),
            (arguments.csv, lambda path: write_bench(path, bench)),
            (arguments.json, lambda path: _write_json(bench, path)),
            (arguments.out, lambda path: _write_page(bench, path)),
            (arguments.picture, lambda path: _write_picture(bench, path)),
        ]
    )
    return 0


def _write_json(bench: Bench, path: Path) -> None:
    from imgrec.runs.summary import write_json

    write_json(path, bench.to_dict())


def _write_page(bench: Bench, path: Path) -> None:
    from imgrec.reports.bench.html import write_bench_page

    write_bench_page(bench, path)


def _write_picture(bench: Bench, path: Path) -> None:
    from imgrec.reports.bench.figures import write_picture

    write_picture(bench, path)


def _print(bench: Bench) -> None:
    from imgrec.cli.output import console_for, print_table
    from imgrec.reports.bench.table import LEFT, bench_cells, bench_columns, by_importance, caption

    print(f"{caption(bench)}\n")
    columns = bench_columns(bench)
    left_out = print_table(console_for(10_000), columns, bench_cells(bench), left=LEFT, order=by_importance(bench))
    if left_out:
        print(f"\nleft out for want of width: {', '.join(left_out)}; --csv and --out hold them")
    if bench.rows:
        print()
    for row in bench.rows:
        if row.note:
            print(f"{row.title}: {row.note}")
    for note in bench.notes:
        print(f"note: {note}")


class _Progress:
    """Says what happens now: in one line that changes on a terminal, elsewhere once for each thing."""

    def __enter__(self) -> Callable[[str], None]:
        from imgrec.utils.console import PlainConsole

        console = PlainConsole(stderr=True)
        self._status = console.status("") if console.is_terminal else None
        self._said = ""
        if self._status is not None:
            self._status.start()
        return self._say

    def __exit__(self, *error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def _say(self, text: str) -> None:
        if self._status is not None:
            from rich.text import Text

            self._status.update(Text(text))
            return
        what = text.partition(",")[0]
        if what != self._said:
            self._said = what
            print(what, file=sys.stderr, flush=True)
