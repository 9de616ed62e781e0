"""How fast a task trains in each precision and order in memory, measured on a few steps, and which is to be taken."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from imgrec.errors import UserError
from imgrec.models import set_channels_last
from imgrec.optim import build_optimizer, match_memory_format
from imgrec.tasks.base import BaseTask
from imgrec.tasks.synthetic_step import make_step, noise
from imgrec.types import DataFacts

BUDGET = 2.8
"""Seconds that a measurement takes, or a little more."""

SMALL = 1.0
"""GFLOP of a batch on its way forward below which nothing is measured: such a step is made of overhead."""

FORMAT_MARGIN, PRECISION_MARGIN = 1.05, 1.1
"""How many times faster channels last, and a lower precision, have to be: noise is not to decide."""

_HOPELESS = 1.5


class Way(NamedTuple):
    """A way to train: Lightning's name of the precision, and whether tensors lie pixel by pixel."""

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision} channels_last" if self.channels_last else self.precision


@dataclass(frozen=True)
class Measurement:
    """Seconds of a training step of ``batch_size`` images, the least of a few, and what could not be run and why."""

    batch_size: int
    seconds: dict[Way, float]
    failed: dict[Way, str]

    def __str__(self) -> str:
        figures = [f"{way} {1000 * value:.0f} ms" for way, value in sorted(self.seconds.items(), key=lambda s: s[1])]
        failures = [f"{way} fails ({why})" for way, why in self.failed.items()]
        return f"a step of {self.batch_size} images: {', '.join([*figures, *failures])}"


def fastest(seconds: Mapping[Way, float]) -> Way:
    """The way to take: float32 in the usual order, unless another is faster by a margin.

    >>> fastest({Way("32-true", False): 1.0, Way("32-true", True): 0.8, Way("bf16-mixed", True): 0.75})
    Way(precision='32-true', channels_last=True)
    >>> fastest({Way("32-true", False): 1.0, Way("32-true", True): 0.99, Way("bf16-mixed", True): 0.6})
    Way(precision='bf16-mixed', channels_last=True)
    """
    best: Way | None = None
    for precision in dict.fromkeys(["32-true", *(way.precision for way in seconds)]):
        usual, last = Way(precision, False), Way(precision, True)
        ways = [way for way in (usual, last) if way in seconds]
        if not ways:
            continue
        mine = last if last in ways and (len(ways) == 1 or seconds[last] * FORMAT_MARGIN <= seconds[usual]) else usual
        if best is None or seconds[mine] * PRECISION_MARGIN <= seconds[best]:
            best = mine
    if best is None:
        raise ValueError("nothing was measured")
    return best


def is_small(task: BaseTask, batch_size: int) -> bool:
    """Whether a training step of a built task is so small that a measurement is not worth its time."""
    facts = _facts(task)
    batch = noise(facts, 2).to(task.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        task.model_step(batch)
    return float(counter.get_total_flops()) / len(batch) / 1e9 * batch_size < SMALL


def measure(
    task: BaseTask,
    batch_size: int,
    ways: Sequence[Way],
    budget: float = BUDGET,
    clock: Callable[[], float] | None = None,
) -> Measurement:
    """Train a task for a few steps in each way, in turn, on images of noise.

    The batch is as large as the budget allows, and never larger than the run's.

    Args:
        task: built, on the device where it is to be trained, and spoilt afterwards: a :func:`trial`. What its
            ``model_step`` and ``compute_loss`` do is what is measured.
        batch_size: images in a batch of the run.
        ways: what to try; the first one should be able to run.
        budget: about how many seconds it may take.
        clock: what tells the time, in seconds. By default, on a CPU, the time of this thread's own work, which other
            processes do not stretch.

    Raises:
        UserError: not one way could be run; the message has the first one's error.
    """
    clock = clock or (time.thread_time if task.device.type == "cpu" else time.perf_counter)
    step, failed = _Step(task, clock), dict[Way, str]()
    longest = budget / (2 * len(ways))
    size = min(2, batch_size)
    try:
        while min(step(ways[0], size), step(ways[0], size)) * 2 < longest and size < batch_size:
            size = min(2 * size, batch_size)
    except Exception as error:  # whatever a network raises
        failed[ways[0]] = _reason(error)
    seconds = _in_turn(step, [way for way in ways if way not in failed], size, budget, failed)
    if not seconds:
        raise UserError(f"the network cannot be trained: {failed[ways[0]]}")
    return Measurement(size, seconds, failed)


def _in_turn(step: _Step, ways: list[Way], size: int, budget: float, failed: dict[Way, str]) -> dict[Way, float]:
    """The least seconds of each way over rounds; a way that is far behind, or fails, is not tried again."""
    seconds: dict[Way, float] = {}
    spent, rounds = 0.0, 0
    while rounds < 2 or (spent < budget and rounds < 12):
        for way in list(ways):
            try:
                took = step(way, size)
            except Exception as error:  # an operator that lacks this precision, a view of another order, no memory
                failed[way] = _reason(error)
                ways.remove(way)
                seconds.pop(way, None)
                continue
            spent += took
            seconds[way] = min(took, seconds.get(way, took))
        rounds += 1
        if rounds > 1:  # the first one prepares kernels
            ways = [way for way in ways if seconds[way] < _HOPELESS * min(seconds.values())]
    return seconds


class _Step:
    """One training step in a given way: its seconds."""

    def __init__(self, task: BaseTask, clock: Callable[[], float]) -> None:
        self.task = task
        self.facts = _facts(task)
        self.device = task.device
        self.clock = clock
        self.optimizer = build_optimizer(task.optimizer_spec, task)
        self.order: bool | None = None

    def __call__(self, way: Way, size: int) -> float:
        if self.order != way.channels_last:
            set_channels_last(self.task.model, way.channels_last)
            match_memory_format(self.optimizer)
            self.order = way.channels_last
        batch = noise(self.facts, size).to(self.device)
        self._synchronize()
        begun = self.clock()
        make_step(
            self.task.model,
            self.optimizer,
            lambda: self.task.compute_loss(self.task.model_step(batch)),
            way.precision,
        )
        self._synchronize()
        return self.clock() - begun

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _facts(task: BaseTask) -> DataFacts:
    assert task.facts is not None, "a task is built with its facts"
    return task.facts


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
