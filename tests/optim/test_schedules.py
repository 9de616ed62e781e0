from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR

from imgrec.errors import SpecError, UserError
from imgrec.optim import SCHEDULES, Cosine, Exponential, Linear, Schedule, Step, build_schedule, check_schedule


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1.0,)])


def curve(scheduler: Any, steps: int) -> list[float]:
    """The learning rate of each optimizer step."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_warms_up_and_then_starts_at_one(name: str) -> None:
    schedule = SCHEDULES.build({"name": name, "warmup": 0.2, "warmup_start": 0.1})
    assert [schedule(p) for p in (0.0, 0.1)] == pytest.approx([0.1, 0.55])
    assert schedule(0.2) == pytest.approx(1.0)
    factors = [schedule(i / 1000) for i in range(200, 1001)]
    assert all(later <= earlier for earlier, later in pairwise(factors))
    assert factors[-1] < 1 or name == "constant"
    plain = SCHEDULES.build(name)
    assert plain(0.0) == 1.0
    assert schedule(0.2 + 0.8 * 0.4) == pytest.approx(plain(0.4))  # the curve runs over what the warm-up leaves
    assert schedule(1.5) == schedule(1.0)
    entry = SCHEDULES.entry(name)
    assert entry.summary.endswith(".")
    assert entry.reference


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Cosine(), {0: 1, 0.25: (1 + math.sqrt(0.5)) / 2, 0.5: 0.5, 1: 0}),
        (Cosine(final=0.2), {0: 1, 0.5: 0.6, 1: 0.2}),
        (Linear(), {0: 1, 0.25: 0.75, 0.5: 0.5, 1: 0}),
        (Linear(final=0.1, warmup=0.2, warmup_start=0.5), {0: 0.5, 0.1: 0.75, 0.2: 1, 0.6: 0.55, 1: 0.1}),
        (Step(), {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1: 0.01}),
        (Step(milestones=[0.8, 0.3], gamma=0.5), {0.29: 1, 0.3: 0.5, 0.8: 0.25, 1: 0.25}),
        (Step(every=0.25, gamma=0.5), {0: 1, 0.25: 0.5, 0.5: 0.25, 0.75: 0.125, 1: 0.125}),
        (Exponential(), {0: 1, 0.5: 0.1, 1: 0.01}),
        (Exponential(final=0.5), {0: 1, 0.5: math.sqrt(0.5), 1: 0.5}),
        (Cosine(warmup=0.5), {0: 0.01, 0.25: 0.505, 0.5: 1, 0.75: 0.5, 1: 0}),
        (Step(milestones=[0.5], warmup=0.2), {0.2: 1, 0.59: 1, 0.61: 0.1}),
    ],
)
def test_the_curve(schedule: Schedule, expected: dict[float, float]) -> None:
    assert {p: schedule.factor(p) for p in expected} == pytest.approx(expected)


def test_cosine_and_step_are_torchs_own() -> None:
    one, two = optimizer(0.3), optimizer(0.3)
    ours = curve(build_schedule("cosine", one, 50), 50)
    assert ours == pytest.approx(curve(CosineAnnealingLR(two, T_max=50), 50))
    one, two = optimizer(0.3), optimizer(0.3)
    ours = curve(build_schedule({"name": "step", "milestones": [0.3, 0.6, 0.9]}, one, 10), 10)
    assert ours == pytest.approx(curve(MultiStepLR(two, milestones=[3, 6, 9]), 10))


@pytest.mark.parametrize("steps", [3, 7, 10, 30, 391])
def test_milestones_fall_on_their_steps(steps: int) -> None:
    rates = curve(build_schedule({"name": "step", "every": 1 / steps, "gamma": 0.9}, optimizer(), steps), steps)
    assert rates == pytest.approx([0.9**i for i in range(steps)])


def test_the_curve_does_not_depend_on_the_number_of_steps() -> None:
    short = curve(build_schedule({"name": "cosine", "warmup": 0.1}, optimizer(), 100), 100)
    long = curve(build_schedule({"name": "cosine", "warmup": 0.1}, optimizer(), 400), 400)
    assert long[::4] == pytest.approx(short)


def test_every_group_keeps_its_own_rate() -> None:
    groups = optimizer(1.0, 0.1)
    scheduler = build_schedule("cosine", groups, 4)
    for _ in range(2):
        groups.step()
        scheduler.step()
    assert scheduler.get_last_lr() == pytest.approx([0.5, 0.05])


def test_after_the_last_step_nothing_changes() -> None:
    rates = curve(build_schedule({"name": "cosine", "final": 0.1}, optimizer(), 4), 8)
    assert rates[4:] == pytest.approx([0.1] * 4)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_resumed_run_follows_the_same_curve(name: str, tmp_path: Any) -> None:
    spec = {"name": name, "warmup": 0.3}

    def fresh() -> tuple[SGD, LambdaLR]:
        made = optimizer(0.7)
        return made, build_schedule(spec, made, 20)

    _, through = fresh()
    whole = curve(through, 20)
    first, scheduler = fresh()
    start = curve(scheduler, 9)
    torch.save({"optimizer": first.state_dict(), "scheduler": scheduler.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second, resumed = fresh()
    second.load_state_dict(state["optimizer"])
    resumed.load_state_dict(copy.deepcopy(state["scheduler"]))
    assert start + curve(resumed, 11) == whole


def test_training_without_an_end() -> None:
    assert curve(build_schedule("constant", optimizer(0.5), float("inf")), 3) == [0.5] * 3
    for spec in ("cosine", {"name": "constant", "warmup": 0.1}):
        for steps in (float("inf"), -1):
            with pytest.raises(UserError, match=r"^model\.schedule: .*trainer\.max_epochs"):
                build_schedule(spec, optimizer(), steps)


def test_what_is_no_schedule_is_refused() -> None:
    with pytest.raises(SpecError, match=r"not a callable"):
        build_schedule("fractions.Fraction", optimizer(), 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin", r'^model\.schedule: no schedule is called "cosin"\. Did you mean "cosine"\?'),
        ({"name": "cosine", "warm_up": 0.1}, r'no argument "warm_up"\. Did you mean "warmup"'),
        ({"name": "cosine", "warmup": 5}, r"^model\.schedule: `warmup` must be at least 0 and below 1, got 5"),
        ({"name": "cosine", "final": 2.0}, r"^model\.schedule: `final` must be at least 0 and at most 1"),
        ({"name": "exponential", "final": 0}, r"^model\.schedule: `final` must be above 0"),
        ({"name": "step", "milestones": [30, 60]}, r"^model\.schedule: `milestones` must be above 0 and below 1, got"),
        ({"name": "step", "every": 0.2, "milestones": [0.5]}, r"^model\.schedule: give `milestones` or `every`"),
        ({"name": "step", "gamma": 0}, r"^model\.schedule: `gamma` must be above 0"),
        ({"name": "step", "milestones": "late"}, r"^model\.schedule\.milestones: expected"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_with_its_place(spec: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_schedule(spec, "model.schedule")
    with pytest.raises(SpecError, match=message):
        build_schedule(spec, optimizer(), 10, "model.schedule")
