"""Benchmark of precisions and memory formats: measurement, selection, and no side effects."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from imgrec import Batch, ClassificationTask, StepOutput
from imgrec.errors import UserError
from imgrec.tasks.precision_benchmark import PrecisionConfig, is_small, measure_precisions, select_fastest
from imgrec.tasks.synthetic_step import temporary_copy
from imgrec.types import DataFacts

CPU = torch.device("cpu")
FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=16, channels=1)
PLAIN, LAST = PrecisionConfig("32-true", False), PrecisionConfig("32-true", True)
HALF, HALF_LAST = PrecisionConfig("bf16-mixed", False), PrecisionConfig("bf16-mixed", True)
WAYS = [PLAIN, LAST, HALF, HALF_LAST]


class Costly(ClassificationTask):
    """A task with a simulated clock, which each image advances by the cost of its configuration."""

    def __init__(self, costs: dict[PrecisionConfig, float], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.costs = costs
        self.time = 0.0
        self.sizes: list[tuple[PrecisionConfig, int]] = []

    def clock(self) -> float:
        return self.time

    def model_step(self, batch: Batch) -> StepOutput:
        half = torch.is_autocast_enabled("cpu")
        way = PrecisionConfig("bf16-mixed" if half else "32-true", self.model.channels_last)
        if math.isinf(self.costs[way]):
            raise RuntimeError("not here\nsecond line")
        self.time += self.costs[way] * len(batch)
        self.sizes.append((way, len(batch)))
        return super().model_step(batch)


@pytest.fixture
def costly(tiny_backbone: dict[str, Any]) -> Callable[..., Costly]:
    def make(*costs: float) -> Costly:
        return Costly(dict(zip(WAYS, costs, strict=True)), backbone=tiny_backbone, normalize="half")

    return make


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ([1.0, 1.0, 1.0, 1.0], PLAIN),
        ([1.0, 0.97, 0.93, 0.92], PLAIN),  # within the margins
        ([1.0, 0.9, 0.85, 0.82], LAST),  # half would have to be faster than the best float32 by its margin
        ([1.0, 0.9, 0.7, 0.69], HALF),
        ([1.0, 1.5, 0.8, 0.5], HALF_LAST),
        ([1.0, 1.2, 1.5, 1.4], PLAIN),
    ],
)
def test_the_fastest_is_selected_if_it_is_faster_by_a_margin(seconds: list[float], chosen: PrecisionConfig) -> None:
    assert select_fastest(dict(zip(WAYS, seconds, strict=True))) == chosen


def test_a_missing_configuration_is_not_selected() -> None:
    assert select_fastest({LAST: 2.0, HALF: 1.9}) == LAST
    assert select_fastest({HALF_LAST: 1.0}) == HALF_LAST


def test_each_configuration_is_measured_with_a_batch_within_the_budget(costly: Callable[..., Costly]) -> None:
    with temporary_copy(costly(0.004, 0.003, 0.002, 0.001), FACTS, CPU) as task:
        assert isinstance(task, Costly)
        found = measure_precisions(task, 500, WAYS, budget=2.0, clock=task.clock)
        assert found.batch_size == 32  # 64 images would take 0.256 s, and a step may take 0.25
        assert found.seconds == pytest.approx({PLAIN: 0.128, LAST: 0.096, HALF: 0.064, HALF_LAST: 0.032})
        assert task.time < 4.0
        assert select_fastest(found.seconds) == HALF_LAST
        assert str(found).startswith("a step of 32 images: bf16-mixed channels_last 32 ms, bf16-mixed 64 ms")


def test_the_batch_is_at_most_that_of_the_run(costly: Callable[..., Costly]) -> None:
    with temporary_copy(costly(1e-6, 1e-6, 1e-6, 1e-6), FACTS, CPU) as task:
        assert isinstance(task, Costly)
        assert measure_precisions(task, 24, WAYS, clock=task.clock).batch_size == 24
        assert max(size for _, size in task.sizes) == 24


def test_a_slow_configuration_is_measured_twice_only(costly: Callable[..., Costly]) -> None:
    with temporary_copy(costly(0.01, 0.5, 0.01, 0.01), FACTS, CPU) as task:
        assert isinstance(task, Costly)
        measure_precisions(task, 2, WAYS, budget=2.5, clock=task.clock)
        assert sum(way == LAST for way, _ in task.sizes) == 2
        assert sum(way == HALF for way, _ in task.sizes) > 3


def test_a_failing_configuration_is_reported_and_the_others_are_measured(costly: Callable[..., Costly]) -> None:
    with temporary_copy(costly(0.01, math.inf, 0.02, math.inf), FACTS, CPU) as task:
        assert isinstance(task, Costly)
        found = measure_precisions(task, 4, WAYS, clock=task.clock)
    assert set(found.seconds) == {PLAIN, HALF}
    assert found.failed == {LAST: "RuntimeError: not here", HALF_LAST: "RuntimeError: not here"}
    assert "32-true channels_last fails (RuntimeError: not here)" in str(found)


def test_a_task_that_cannot_be_trained_raises(costly: Callable[..., Costly]) -> None:
    with (
        temporary_copy(costly(*[math.inf] * 4), FACTS, CPU) as task,
        pytest.raises(UserError, match="cannot be trained: RuntimeError: not here"),
    ):
        measure_precisions(task, 4, WAYS)


def test_the_real_clock_measures_every_configuration(tiny_backbone: dict[str, Any]) -> None:
    with temporary_copy(ClassificationTask(backbone=tiny_backbone, optimizer="sgd"), FACTS, CPU) as task:
        before = copy.deepcopy(task.model.state_dict())
        found = measure_precisions(task, 8, WAYS, budget=0.05)
        after = task.model.state_dict()
    assert set(found.seconds) | set(found.failed) <= set(WAYS)
    assert PLAIN in found.seconds
    assert all(0 < value < 60 for value in found.seconds.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)  # it did train


def test_a_temporary_copy_does_not_change_the_task_and_the_default_generator(tiny_backbone: dict[str, Any]) -> None:
    task = ClassificationTask(backbone=tiny_backbone, channels_last=True)
    hparams = copy.deepcopy(dict(task.hparams))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with temporary_copy(task, FACTS, CPU) as built:
        assert built is not task
        assert built.training
        measure_precisions(built, 4, WAYS, budget=0.01)
    assert torch.equal(torch.get_rng_state(), state)
    assert not hasattr(task, "model")
    assert task.facts is None
    assert dict(task.hparams) == hparams
    assert task.channels_last is True


def test_small_steps_are_detected_by_their_flops(tiny_backbone: dict[str, Any]) -> None:
    with temporary_copy(ClassificationTask(backbone=tiny_backbone), FACTS, CPU) as task:
        assert is_small(task, 64)
    facts = DataFacts(("a", "b"), (1, 1), image_size=32)
    with temporary_copy(ClassificationTask(backbone="resnet18"), facts, CPU) as task:
        assert is_small(task, 13)  # 37 million multiply-adds per image
        assert not is_small(task, 14)
