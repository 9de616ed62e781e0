"""``imgrec batch-find``: the largest batch that fits in memory, and how fast each size trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.options import parse
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.engine.experiment import Engine

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

_STEPS = 4
_SHARE = 0.9
_AS_FAST = 0.95


@dataclass(frozen=True)
class BatchSize:
    """What a batch size costs: the most bytes that training held with it, and the images that it trained a second."""

    size: int
    memory: int
    images_per_second: float


@dataclass(frozen=True)
class BatchSizes:
    """The batch sizes that fit, the smallest first, and why there is none above.

    Attributes:
        tried: at least one.
        budget: the bytes that training may take.
        end: why the next one was not taken.
    """

    tried: tuple[BatchSize, ...]
    budget: int
    end: str

    @property
    def largest(self) -> BatchSize:
        """The last that fits."""
        return self.tried[-1]

    @property
    def as_fast(self) -> BatchSize:
        """The smallest that trains within 5 % of as many images a second as the fastest."""
        best = max(each.images_per_second for each in self.tried)
        return next(each for each in self.tried if each.images_per_second >= _AS_FAST * best)


def predicted_memory(tried: Sequence[BatchSize], size: int) -> int | None:
    """The bytes that a batch size will take: a straight line through the last two; ``None`` of fewer.

    >>> predicted_memory([BatchSize(8, 150, 1.0), BatchSize(16, 200, 1.0)], 32)
    300
    """
    if len(tried) < 2:
        return None
    before, last = tried[-2:]
    slope = max(0.0, (last.memory - before.memory) / (last.size - before.size))
    return round(last.memory + slope * (size - last.size))


def run(command: str, words: list[str]) -> int:
    """Search, and print a table."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    given = DEFAULTS | {key: value for key, value in arguments.overrides if key in DEFAULTS}
    _check(given)

    from imgrec.engine.short_run import engine_of_words

    engine = engine_of_words(command, arguments, DEFAULTS)
    _say(search(engine, given["memory"], given["smallest"], given["largest"]), given["csv"])
    return 0


def find_batch_size(
    *config: str | Path | Mapping[str, Any], memory: str | None = None, smallest: int = 8, largest: int = 4096
) -> BatchSizes:
    """The search of `imgrec batch-find`; nothing but what it gives stays of it.

    Args:
        config: paths of configs, or mappings as they hold them; later over earlier.
        memory: what training may take, ``"6GiB"`` say; by default nine tenths of what is free.
        smallest: the first size.
        largest: the last; never more than there are training images.

    Raises:
        UserError: the config or an argument cannot be, or not even the first size fits.

    Example::

        print(imgrec.find_batch_size("experiments/digits/quickstart.yaml", memory="2GiB").largest.size)
    """
    from imgrec.engine.short_run import config_of, settled_engine

    _check(DEFAULTS | {"memory": memory, "smallest": smallest, "largest": largest})
    return search(settled_engine(config_of(*config)), memory, smallest, largest)


def search(engine: Engine, memory: str | None, smallest: int, largest: int) -> BatchSizes:
    """Try batch sizes, each twice the one before it, on copies of what an engine would train.

    Raises:
        UserError: not even the first fits; or the data has no batch size to vary.
    """
    from imgrec.callbacks.throughput import StepMeter
    from imgrec.engine.short_run import MemoryOf, train_briefly
    from imgrec.utils.formatting import format_size

    images = _training_images(engine)
    device = engine.trainer.strategy.root_device
    held = MemoryOf(device)
    budget = _budget(memory, held)
    accumulated = min(2, engine.trainer.accumulate_grad_batches)  # of two batches, one finds the other's gradients
    tried: list[BatchSize] = []
    size, end = min(smallest, images), ""
    while not end:
        told = predicted_memory(tried, size)
        if device.type != "cuda" and told is not None and told > budget:
            end = f"{size} would take about {format_size(told)}"
            break
        meter = StepMeter(_STEPS)
        held.count_anew()
        try:
            train_briefly(engine, meter, data={"batch_size": size}, trainer={"accumulate_grad_batches": accumulated})
        except RuntimeError as error:
            if not held.is_exhausted(error):
                raise
            end = f"{size} did not fit"
            continue
        peak = held.peak()
        if peak > budget:
            end = f"{size} took {format_size(peak)}"
            continue
        tried.append(BatchSize(size, peak, meter.images_per_second))
        if size >= min(largest, images):
            end = f"there are {images:,} training images" if size >= images else f"--largest is {largest}"
        size = min(2 * size, images)
        if size > largest:
            end = end or f"--largest is {largest}"
    if not tried:
        raise UserError(f"no batch fits in {format_size(budget)}: {end}")
    return BatchSizes(tuple(tried), budget, end)


def _training_images(engine: Engine) -> int:
    arguments = engine.config["data"]["init_args"]
    if not isinstance(arguments.get("batch_size"), int):
        raise UserError(f"data: {engine.config['data']['class_path']} takes no `batch_size` that could be varied")
    engine.data.prepare_data()
    engine.data.setup("fit")
    sizes = engine.data.split_sizes() if hasattr(engine.data, "split_sizes") else {}
    return int(sizes.get("train", 2**31))


def _budget(memory: str | None, held: Any) -> int:
    if memory is not None:
        from imgrec.utils.formatting import parse_size

        return parse_size(memory)
    free = held.free()
    if free is None:
        raise UserError("this system does not say how much memory is free: give --memory 6GiB, say")
    return int(_SHARE * free)


def _check(given: Mapping[str, Any]) -> None:
    for key in ("smallest", "largest"):
        if not isinstance(given[key], int) or isinstance(given[key], bool) or given[key] < 1:
            raise UserError(f"--{key}: expected a number, 1 or more, got {given[key]!r}")
    if given["smallest"] > given["largest"]:
        raise UserError(f"--smallest {given['smallest']} is more than --largest {given['largest']}")
    if given["memory"] is not None:
        from imgrec.utils.formatting import parse_size

        try:
            parse_size(given["memory"])
        except ValueError as error:
            raise UserError(f"--memory: {error}") from error


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
