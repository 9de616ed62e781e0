"""``imgrec batch-find``: the largest batch that fits in memory, and how fast each size trains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from imgrec.cli.options import parse
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.engine.batch_find import BatchSizes

HELP = """usage: imgrec batch-find CONFIG.yaml [CONFIG.yaml ...] [--memory SIZE] [--key.subkey VALUE ...]

Look for a batch size: train a copy for a few steps with 8 images in a batch, 16, 32, ..., as long as they fit in
memory, and say of each size what memory it takes and how many images a second it trains. It is the training that
`imgrec fit` would begin, as in `imgrec lr-find`; nothing of it stays.

  CONFIG, -c FILE      a config; several are merged, later over earlier
  --memory SIZE        the memory that training may take, 6GiB say (default: nine tenths of what is free)
  --smallest N         the first size (default: 8)
  --largest N          the last (default: 4096); never more than there are training images
  --csv FILE           write the sizes with their figures, too
  --key.subkey VALUE   one value: --data.image_size 224

On a GPU a size is tried, and what does not fit ends the search. On a CPU the memory of the next size is told from those
before it, and what would not fit is not tried. The memory of worker processes, and of the images that a cache holds on
disk, is not counted.
"""

DEFAULTS: dict[str, Any] = {"memory": None, "smallest": 8, "largest": 4096, "csv": None}


def run(command: str, words: list[str]) -> int:
    """Search, and print a table."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    given = DEFAULTS | {key: value for key, value in arguments.overrides if key in DEFAULTS}
    _check(given)

    from imgrec.cli.short_run import build_short_run
    from imgrec.engine.batch_find import search

    engine = build_short_run(command, arguments, DEFAULTS)
    _say(search(engine, given["memory"], given["smallest"], given["largest"]), given["csv"])
    return 0


def _check(given: Mapping[str, Any]) -> None:
    from imgrec.engine.batch_find import check_sizes

    check_sizes(given["memory"], given["smallest"], given["largest"])


def _say(found: BatchSizes, csv_file: str | None) -> None:
    from imgrec.cli.output import console_for, print_table
    from imgrec.cli.written import write_table
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
    print("A learning rate goes with its batch size: imgrec lr-find looks for one, and `lr_reference_batch` scales it.")
    figures = [[each.size, each.memory, f"{each.images_per_second:.6g}"] for each in found.tried]
    write_table(csv_file, ["batch_size", "bytes", "images_per_second"], figures)
