"""Benchmark of a few training steps in each precision and memory format, to select the fastest."""

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
from imgrec.tasks.synthetic_step import make_step, random_batch
from imgrec.types import DataFacts

BUDGET = 2.8
"""Approximate duration of a benchmark, in seconds."""

SMALL = 1.0
"""GFLOP of the forward pass of a batch below which no benchmark is run, because overhead dominates the step."""

FORMAT_MARGIN, PRECISION_MARGIN = 1.05, 1.1
"""Minimum speed-up of channels last and of a lower precision, to exclude differences by noise."""

_MAX_RATIO = 1.5  # slower configurations are not measured again


class PrecisionConfig(NamedTuple):
    """A precision, by its name in Lightning, and a memory format."""

    precision: str
    channels_last: bool

    def __str__(self) -> str:
        return f"{self.precision} channels_last" if self.channels_last else self.precision


@dataclass(frozen=True)
class Measurement:
    """Durations of a training step.

    Args:
        batch_size: Number of images in the step.
        seconds: Minimum duration of a few steps, in seconds, by configuration.
        failed: Reason by configuration that cannot be trained.
    """

    batch_size: int
    seconds: dict[PrecisionConfig, float]
    failed: dict[PrecisionConfig, str]

    def __str__(self) -> str:
        measured = sorted(self.seconds.items(), key=lambda item: item[1])
        durations = [f"{config} {1000 * value:.0f} ms" for config, value in measured]
        failures = [f"{config} fails ({reason})" for config, reason in self.failed.items()]
        return f"a step of {self.batch_size} images: {', '.join([*durations, *failures])}"


def select_fastest(seconds: Mapping[PrecisionConfig, float]) -> PrecisionConfig:
    """Return float32 in the default memory format, unless another configuration is faster by a margin.

    Args:
        seconds: Duration of a step, by configuration.

    Raises:
        ValueError: If ``seconds`` is empty.

    Example:
        >>> plain, last = PrecisionConfig("32-true", False), PrecisionConfig("32-true", True)
        >>> select_fastest({plain: 1.0, last: 0.8, PrecisionConfig("bf16-mixed", True): 0.75})
        PrecisionConfig(precision='32-true', channels_last=True)
        >>> select_fastest({plain: 1.0, last: 0.99, PrecisionConfig("bf16-mixed", True): 0.6})
        PrecisionConfig(precision='bf16-mixed', channels_last=True)
    """
    best: PrecisionConfig | None = None
    for precision in dict.fromkeys(["32-true", *(config.precision for config in seconds)]):
        default, last = PrecisionConfig(precision, False), PrecisionConfig(precision, True)
        configs = [config for config in (default, last) if config in seconds]
        if not configs:
            continue
        is_last = last in configs and (len(configs) == 1 or seconds[last] * FORMAT_MARGIN <= seconds[default])
        candidate = last if is_last else default
        if best is None or seconds[candidate] * PRECISION_MARGIN <= seconds[best]:
            best = candidate
    if best is None:
        raise ValueError("expected one duration or more, got none")
    return best


def is_small(task: BaseTask, batch_size: int) -> bool:
    """Return True if a training step of a built task is too small to benefit from a benchmark."""
    facts = _facts(task)
    batch = random_batch(facts, 2).to(task.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        task.model_step(batch)
    return float(counter.get_total_flops()) / len(batch) / 1e9 * batch_size < SMALL


def measure_precisions(
    task: BaseTask,
    batch_size: int,
    configs: Sequence[PrecisionConfig],
    budget: float = BUDGET,
    clock: Callable[[], float] | None = None,
) -> Measurement:
    """Measure a few training steps of a task in each configuration, in turn, on random images.

    The batch is as large as the budget allows, and at most as large as the batch of the run.

    Args:
        task: Built task on the device of the training, a :func:`imgrec.tasks.synthetic_step.temporary_copy`. The steps
            change it. They include ``model_step`` and ``compute_loss``.
        batch_size: Number of images in a batch of the run.
        configs: Configurations. The first one should be supported.
        budget: Approximate duration, in seconds. Defaults to 2.8.
        clock: Function that returns the time in seconds. On a CPU it defaults to the CPU time of this thread, which
            does not depend on other processes. On other devices it defaults to the wall clock.

    Raises:
        UserError: If no configuration can be trained.
    """
    clock = clock or (time.thread_time if task.device.type == "cpu" else time.perf_counter)
    step, failed = _Step(task, clock), dict[PrecisionConfig, str]()
    longest = budget / (2 * len(configs))
    size = min(2, batch_size)
    try:
        while min(step(configs[0], size), step(configs[0], size)) * 2 < longest and size < batch_size:
            size = min(2 * size, batch_size)
    except Exception as error:  # a model may raise any error
        failed[configs[0]] = _reason(error)
    seconds = _measure_in_turn(step, [config for config in configs if config not in failed], size, budget, failed)
    if not seconds:
        raise UserError(f"The model cannot be trained: {failed[configs[0]]}")
    return Measurement(size, seconds, failed)


def _measure_in_turn(
    step: _Step, configs: list[PrecisionConfig], size: int, budget: float, failed: dict[PrecisionConfig, str]
) -> dict[PrecisionConfig, float]:
    """Return the minimum duration of each configuration. Slow and failing configurations are not measured again."""
    seconds: dict[PrecisionConfig, float] = {}
    spent, rounds = 0.0, 0
    while rounds < 2 or (spent < budget and rounds < 12):
        for config in list(configs):
            try:
                took = step(config, size)
            except Exception as error:  # unsupported precision or memory format of an operator, or out of memory
                failed[config] = _reason(error)
                configs.remove(config)
                seconds.pop(config, None)
                continue
            spent += took
            seconds[config] = min(took, seconds.get(config, took))
        rounds += 1
        if rounds > 1:  # the first round includes the selection of kernels
            configs = [config for config in configs if seconds[config] < _MAX_RATIO * min(seconds.values())]
    return seconds


class _Step:
    """Function that runs one training step and returns its duration in seconds."""

    def __init__(self, task: BaseTask, clock: Callable[[], float]) -> None:
        self.task = task
        self.facts = _facts(task)
        self.device = task.device
        self.clock = clock
        self.optimizer = build_optimizer(task.optimizer_spec, task)
        self.channels_last: bool | None = None

    def __call__(self, config: PrecisionConfig, size: int) -> float:
        if self.channels_last != config.channels_last:
            set_channels_last(self.task.model, config.channels_last)
            match_memory_format(self.optimizer)
            self.channels_last = config.channels_last
        batch = random_batch(self.facts, size).to(self.device)
        self._synchronize()
        start = self.clock()
        make_step(
            self.task.model,
            self.optimizer,
            lambda: self.task.compute_loss(self.task.model_step(batch)),
            config.precision,
        )
        self._synchronize()
        return self.clock() - start

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _facts(task: BaseTask) -> DataFacts:
    assert task.facts is not None, "the task is built"
    return task.facts


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__
