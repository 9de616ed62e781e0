"""Search for the largest batch size of a config: ``imgrec.find_batch_size`` and ``imgrec batch-find``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import UserError
from imgrec.utils.formatting import format_size, parse_byte_size

if TYPE_CHECKING:
    from imgrec.engine.experiment import Experiment

_STEPS = 4
_SHARE = 0.9
_AS_FAST = 0.95


@dataclass(frozen=True)
class BatchSize:
    """Peak memory in bytes and throughput of a batch size."""

    size: int
    memory: int
    images_per_second: float


@dataclass(frozen=True)
class BatchSizes:
    """Batch sizes that fit into memory, in ascending order, and the reason for the end of the search.

    Args:
        tried: Batch sizes, one or more.
        budget: Memory budget of the training in bytes.
        end: Reason why no larger size was accepted.
    """

    tried: tuple[BatchSize, ...]
    budget: int
    end: str

    @property
    def largest(self) -> BatchSize:
        """Largest batch size that fits."""
        return self.tried[-1]

    @property
    def as_fast(self) -> BatchSize:
        """Smallest batch size whose throughput is at least 95 % of the highest."""
        best = max(each.images_per_second for each in self.tried)
        return next(each for each in self.tried if each.images_per_second >= _AS_FAST * best)


def predicted_memory(tried: Sequence[BatchSize], size: int) -> int | None:
    """Return the linear extrapolation of the memory in bytes from the last two sizes, or ``None`` for fewer.

    >>> predicted_memory([BatchSize(8, 150, 1.0), BatchSize(16, 200, 1.0)], 32)
    300
    """
    if len(tried) < 2:
        return None
    before, last = tried[-2:]
    slope = max(0.0, (last.memory - before.memory) / (last.size - before.size))
    return round(last.memory + slope * (size - last.size))


def find_batch_size(
    *config: str | Path | Mapping[str, Any], memory: str | None = None, smallest: int = 8, largest: int = 4096
) -> BatchSizes:
    """Search for the largest batch size that fits into memory, on copies that leave no files.

    Args:
        config: Paths of configs, or mappings, later over earlier.
        memory: Memory budget, for example ``"6GiB"``. Defaults to 90 % of the free memory.
        smallest: First batch size, 1 or more. Defaults to 8.
        largest: Last batch size, at most the number of training images. Defaults to 4096.

    Raises:
        UserError: If the config or an argument is invalid, or if the first size does not fit.

    Example::

        print(imgrec.find_batch_size("experiments/digits/quickstart.yaml", memory="2GiB").largest.size)
    """
    from imgrec.engine.tuning.short_run import prepare_experiment, read_configs

    check_sizes(memory, smallest, largest)
    return search(prepare_experiment(read_configs(*config)), memory, smallest, largest)


def search(experiment: Experiment, memory: str | None, smallest: int, largest: int) -> BatchSizes:
    """Train copies of an experiment with doubling batch sizes.

    Raises:
        UserError: If the first size does not fit, or if the data module has no batch size.
    """
    from imgrec.callbacks.throughput import StepMeter
    from imgrec.engine.tuning.memory_meter import MemoryMeter
    from imgrec.engine.tuning.short_run import train_briefly

    images = _training_images(experiment)
    device = experiment.trainer.strategy.root_device
    held = MemoryMeter(device)
    budget = _budget(memory, held)
    accumulated = min(
        2, experiment.trainer.accumulate_grad_batches
    )  # the second batch finds the gradients of the first
    tried: list[BatchSize] = []
    size, end = min(smallest, images), ""
    while not end:
        predicted = predicted_memory(tried, size)
        if device.type != "cuda" and predicted is not None and predicted > budget:
            end = f"{size} would take about {format_size(predicted)}"
            break
        meter = StepMeter(_STEPS)
        held.reset_peak()
        try:
            train_briefly(
                experiment, meter, data={"batch_size": size}, trainer={"accumulate_grad_batches": accumulated}
            )
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


def _training_images(experiment: Experiment) -> int:
    arguments = experiment.config["data"]["init_args"]
    if not isinstance(arguments.get("batch_size"), int):
        raise UserError(f"data: {experiment.config['data']['class_path']} expected an argument `batch_size`, got none.")
    experiment.data.prepare_data()
    experiment.data.setup("fit")
    sizes = experiment.data.split_sizes() if hasattr(experiment.data, "split_sizes") else {}
    return int(sizes.get("train", 2**31))


def _budget(memory: str | None, held: Any) -> int:
    if memory is not None:
        return parse_byte_size(memory)
    free = held.free()
    if free is None:
        raise UserError("--memory: expected a size such as 6GiB, because this system does not report its free memory.")
    return int(_SHARE * free)


def check_sizes(memory: Any, smallest: Any, largest: Any) -> None:
    """Raise an error if the arguments of a batch size search are invalid.

    Raises:
        UserError: If an argument is out of range.
    """
    for key, value in (("smallest", smallest), ("largest", largest)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"--{key}: expected a number, 1 or more, got {value!r}")
    if smallest > largest:
        raise UserError(f"--smallest {smallest} is more than --largest {largest}")
    if memory is not None:
        try:
            parse_byte_size(memory)
        except ValueError as error:
            raise UserError(f"--memory: {error}") from error
