"""Cost of a network: parameters, MACs, bytes, latency and memory."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from imgrec.models.utils.forward import evaluating
from imgrec.utils.memory import forget_peak, process_memory

_WARM_ROUNDS = 3


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters. A parameter that two layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzero(model: nn.Module) -> int:
    """Return the number of nonzero parameters. Zeros save neither time nor memory in dense layers."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, images: Tensor) -> int:
    """Return the multiply-accumulates of convolutions and matrix products per image.

    They are half of the floating-point operations.

    Args:
        model: Network. Its mode is restored.
        images: Batch of images, ``(N, C, H, W)``.

    Example:
        >>> count_macs(nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.zeros(2, 3, 10, 10))
        21600
    """
    # The counter does not support the fused attention kernels of some devices, so attention runs as matrix products.
    # It requires gradients to resolve views of parameters.
    math = sdpa_kernel(SDPBackend.MATH)
    with evaluating(model), torch.enable_grad(), math, FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops()) // 2 // len(images)


@dataclass(frozen=True)
class Timing:
    """Median and 95th percentile of the seconds of a call over several rounds after a warm-up."""

    median: float
    p95: float
    rounds: int


def time_calls(call: Callable[[], object], budget: float = 1.0, rounds: int = 200, device: str = "cpu") -> Timing:
    """Measure the time of a call.

    Args:
        call: Function without arguments. Its result is ignored.
        budget: Approximate duration of the measurement in seconds. At least five rounds are measured. Defaults to 1.
        rounds: Largest number of rounds. Defaults to 200.
        device: Device to synchronize with, ``cpu`` or ``cuda``. Defaults to ``cpu``.
    """
    wait: Callable[[], object] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(_WARM_ROUNDS):
        call()
    wait()
    gc.collect()
    found: list[float] = []
    ends = time.perf_counter() + budget
    while len(found) < 5 or (len(found) < rounds and time.perf_counter() < ends):
        start = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - start)
    ordered = sorted(found)
    at = min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))
    return Timing(statistics.median(ordered), ordered[at], len(ordered))


@dataclass(frozen=True)
class PairedTiming:
    """Seconds of two calls and the ratio of the first to the second, as medians over interleaved rounds."""

    call: float
    base: float
    ratio: float


def time_pair(
    call: Callable[[], object], base: Callable[[], object], rounds: int = 21, device: str = "cpu"
) -> PairedTiming:
    """Measure the times of two calls in turn, so that other load of the machine does not change the ratio.

    Args:
        call: Function without arguments. Its result is ignored.
        base: Function to compare with.
        rounds: Number of rounds after the warm-up. Defaults to 21.
        device: Device to synchronize with, ``cpu`` or ``cuda``. Defaults to ``cpu``.
    """
    wait: Callable[[], object] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    found: list[tuple[float, float]] = []
    for at in range(_WARM_ROUNDS + rounds):
        seconds = []
        for each in (call, base) if at % 2 else (base, call):
            start = time.perf_counter()
            each()
            wait()
            seconds.append(time.perf_counter() - start)
        found.append((seconds[0], seconds[1]) if at % 2 else (seconds[1], seconds[0]))
    ours, theirs = zip(*found[_WARM_ROUNDS:], strict=True)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return PairedTiming(statistics.median(ours), statistics.median(theirs), ratio)


def time_ratio(call: Callable[[], object], base: Callable[[], object], rounds: int = 21, device: str = "cpu") -> float:
    """Return the time of a call divided by that of another one. See :func:`time_pair`."""
    return time_pair(call, base, rounds, device).ratio


def measure_peak_memory(call: Callable[[], object]) -> int | None:
    """Return the largest growth of the memory of this process during a call in bytes, or ``None`` if unavailable."""
    gc.collect()
    before = process_memory("now")
    if before is None or not forget_peak():
        return None
    call()
    peak = process_memory("peak")
    return None if peak is None else max(0, peak - before)


def bytes_on_disk(path: str | Path) -> int:
    """Return the size in bytes of a file, or of all files below a folder."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    total = 0
    for each in path.rglob("*"):
        with suppress(FileNotFoundError):
            total += each.stat().st_size if each.is_file() else 0
    return total
