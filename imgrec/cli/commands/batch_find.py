"""``imgrec batch-find``: find the largest batch size that fits in memory, and the throughput of each size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imgrec.cli.option_types import Number
from imgrec.cli.parser import Parser
from imgrec.utils.ranges import PositiveInt
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.engine.tuning.batch_find import BatchSizes

DESCRIPTION = """Find a batch size: train a copy for a few steps with batches of 8 images, then 16, 32 and so on. The
search ends if a size does not fit in memory. The table has the memory and the images per second of each size. The
training is the one that `imgrec fit` would start, as in `imgrec lr-find`. It writes nothing."""

EPILOG = """On a GPU, the search ends at the first size that does not fit. On a CPU, the memory of a size is
extrapolated from the two sizes before it. A size that would not fit is not trained. The memory of worker processes and
of images in the cache on disk is not counted."""


def run(command: str, words: list[str]) -> int:
    """Search, and print a table."""
    given = _parser().parse_args(words)

    from imgrec.cli.short_run import build_short_run
    from imgrec.engine.tuning.batch_find import check_sizes, search

    check_sizes(given.memory, given.smallest, given.largest)
    experiment = build_short_run(command, given.files, given.overrides)
    _print(search(experiment, given.memory, given.smallest, given.largest), given.csv)
    return 0


def _parser() -> Parser:
    parser = Parser(prog="imgrec batch-find", description=DESCRIPTION, epilog=EPILOG)
    parser.accept_config()
    parser.add_argument(
        "--memory", metavar="SIZE", help="memory for training, such as 6GiB (default: 90 %% of the free memory)"
    )
    parser.add_argument("--smallest", type=Number(PositiveInt), default=8, metavar="N", help="first batch size")
    parser.add_argument(
        "--largest", type=Number(PositiveInt), default=4096, metavar="N",
        help="last batch size, at most the number of training images",
    )  # fmt: skip
    parser.add_argument("--csv", metavar="FILE", help="also write the table as CSV")
    return parser


def _print(found: BatchSizes, csv_file: str | None) -> None:
    from imgrec.cli.output import console_for, print_table, write_table
    from imgrec.utils.formatting import format_size

    columns = ("batch size", "memory", "images/s")
    rows = [[str(each.size), format_size(each.memory), f"{each.images_per_second:,.0f}"] for each in found.tried]
    print()
    print_table(console_for(10_000), columns, rows, left=())
    print()
    largest, as_fast = found.largest, found.as_fast
    of = f"{format_size(largest.memory)} of {format_size(found.budget)}"
    print(f"largest    --data.batch_size {largest.size}   ({of}; {found.end})")
    if as_fast.size < largest.size:
        print(f"as fast    --data.batch_size {as_fast.size}   (within 5 % of the most images a second)")
    print("The learning rate depends on the batch size: imgrec lr-find finds one, `lr_reference_batch` scales it.")
    figures = [[each.size, each.memory, f"{each.images_per_second:.6g}"] for each in found.tried]
    write_table(csv_file, ["batch_size", "bytes", "images_per_second"], figures)
