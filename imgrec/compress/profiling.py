"""What a network costs: parameters, MACs, bytes, time and memory, measured the same way for every kind of network."""

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
    """How many numbers are learnt; a parameter that two layers share counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_nonzero(model: nn.Module) -> int:
    """How many of them are not zero. Zeros save neither time nor memory where they are stored and multiplied."""
    return sum(int(torch.count_nonzero(parameter)) for parameter in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image: half of the floating-point operations.

    Args:
        model: any network; its mode is kept.
        images: a batch, ``(N, C, H, W)``.

    >>> count_macs(nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.zeros(2, 3, 10, 10))
    21600
    """
    # attention as the matrix products that it is: the fused kernels of some devices are not counted; with gradients,
    # because the counter asks of each view of a parameter where it comes from
    math = sdpa_kernel(SDPBackend.MATH)
    with evaluating(model), torch.enable_grad(), math, FlopCounterMode(display=False) as counter:
        model(images)
    return int(counter.get_total_flops()) // 2 // len(images)


@dataclass(frozen=True)
class Timing:
    """Seconds of a call over several rounds, after some that warmed it: the median and the 95th percentile."""

    median: float
    p95: float
    rounds: int


def time_calls(call: Callable[[], object], budget: float = 1.0, rounds: int = 200, device: str = "cpu") -> Timing:
    """How long a call takes.

    Args:
        call: without arguments; its result is thrown away.
        budget: about how many seconds may be spent; five rounds are made in any case.
        rounds: as many at most.
        device: what is waited for before the clock is read: ``cpu``, or ``cuda``.
    """
    wait: Callable[[], object] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    for _ in range(_WARM_ROUNDS):
        call()
    wait()
    gc.collect()
    found: list[float] = []
    ends = time.perf_counter() + budget
    while len(found) < 5 or (len(found) < rounds and time.perf_counter() < ends):
        begun = time.perf_counter()
        call()
        wait()
        found.append(time.perf_counter() - begun)
    ordered = sorted(found)
    at = min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))
    return Timing(statistics.median(ordered), ordered[at], len(ordered))


@dataclass(frozen=True)
class Pair:
    """Seconds of a call and of another one, and the first over the second: medians over rounds in turn."""

    call: float
    base: float
    ratio: float


def time_pair(call: Callable[[], object], base: Callable[[], object], rounds: int = 21, device: str = "cpu") -> Pair:
    """How long two calls take, in turn: what else the machine does slows both down, and leaves the ratio.

    Args:
        call: without arguments; its result is thrown away.
        base: likewise.
        rounds: how often both are called, after some rounds that warm them.
        device: what is waited for before the clock is read: ``cpu``, or ``cuda``.
    """
    wait: Callable[[], object] = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    found: list[tuple[float, float]] = []
    for at in range(_WARM_ROUNDS + rounds):
        seconds = []
        for each in (call, base) if at % 2 else (base, call):
            begun = time.perf_counter()
            each()
            wait()
            seconds.append(time.perf_counter() - begun)
        found.append((seconds[0], seconds[1]) if at % 2 else (seconds[1], seconds[0]))
    ours, theirs = zip(*found[_WARM_ROUNDS:], strict=True)
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    return Pair(statistics.median(ours), statistics.median(theirs), ratio)


def time_ratio(call: Callable[[], object], base: Callable[[], object], rounds: int = 21, device: str = "cpu") -> float:
    """How long a call takes as a multiple of another one; see :func:`time_pair`."""
    return time_pair(call, base, rounds, device).ratio


def peak_memory(call: Callable[[], object]) -> int | None:
    """Bytes by which the memory of this process grew at most while ``call`` ran; ``None`` where no one says."""
    gc.collect()
    before = process_memory("now")
    if before is None or not forget_peak():
        return None
    call()
    peak = process_memory("peak")
    return None if peak is None else max(0, peak - before)


def bytes_on_disk(path: str | Path) -> int:
    """The size of a file, or of all files below a folder."""
    path = Path(path)
    if path.is_file():
        return path.stat().st_size
    total = 0
    for each in path.rglob("*"):
        with suppress(FileNotFoundError):
            total += each.stat().st_size if each.is_file() else 0
    return total
