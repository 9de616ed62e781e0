from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
)

from imgrec.errors import SpecError, UserError
from imgrec.optim import (
    SCHEDULES,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Schedule,
    Step,
    Wsd,
    build_optimizer,
    build_schedule,
    check_schedule,
)


def optimizer(*rates: float) -> SGD:
    return SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1.0,)])


def curve(scheduler: Any, steps: int) -> list[float]:
    """Return the learning rate of each optimizer step."""
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_warms_up_and_then_starts_at_one(name: str) -> None:
    schedule = SCHEDULES.build({"name": name, "warmup": 0.2, "warmup_start": 0.1})
    assert [schedule(p) for p in (0.0, 0.1)] == pytest.approx([0.1, 0.55])  # half of a cosine is half of a line
    assert schedule(0.2) == pytest.approx(1.0)
    factors = [schedule(i / 1000) for i in range(200, 1001)]
    assert name == "cosine_restarts" or all(later <= earlier for earlier, later in pairwise(factors))
    assert factors[-1] < 1 or name in ("constant", "plateau")
    plain: Any = SCHEDULES.build(name)
    if name == "one_cycle":  # it includes a warm-up
        assert (plain.warmup, plain(0.0), plain(0.3)) == (0.3, 0.04, 1.0)
    else:
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
        (OneCycle(), {0: 0.04, 0.15: 0.52, 0.3: 1, 0.65: (1 + 4e-6) / 2, 1: 4e-6}),
        (OneCycle(shape="linear", final=0.0), {0: 0.04, 0.15: 0.52, 0.3: 1, 0.475: 0.75, 0.65: 0.5, 1: 0}),
        (CosineRestarts(cycles=2, growth=1.0), {0: 1, 0.25: 0.5, 0.5: 1, 0.75: 0.5, 1: 0}),
        (CosineRestarts(cycles=2, growth=3.0, peak=0.5), {0: 1, 0.125: 0.5, 0.25: 0.5, 0.625: 0.25, 1: 0}),
        (CosineRestarts(cycles=1, final=0.2), {0: 1, 0.5: 0.6, 1: 0.2}),
        (CosineRestarts(cycles=2, growth=1.0, peak=0.5, final=0.1), {0.4999: 0.1, 0.5: 0.5, 0.75: 0.3, 1: 0.1}),
        (Polynomial(), {0: 1, 0.5: 0.5**0.9, 1: 0}),
        (Polynomial(power=2.0, final=0.2), {0: 1, 0.5: 0.4, 1: 0.2}),
        (Wsd(shape="linear"), {0: 1, 0.5: 1, 0.8: 1, 0.9: 0.5, 1: 0}),
        (Wsd(), {0: 1, 0.8: 1, 0.85: 0.5, 1: 0}),
        (Wsd(decay=0.5, shape="cosine", final=0.2, warmup=0.2), {0.2: 1, 0.6: 1, 0.8: 0.6, 1: 0.2}),
        (Wsd(decay=1.0, shape="linear"), {0: 1, 0.5: 0.5, 1: 0}),
        (MultiStep(), {0: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1: 0.01}),
        (MultiStep(milestones=[0.2, 0.4], gamma=0.5, warmup=0.5), {0.5: 1, 0.61: 0.5, 0.71: 0.25, 1: 0.25}),
        (Plateau(warmup=0.2, warmup_start=0.0), {0: 0, 0.1: 0.5, 0.2: 1, 1: 1}),
        (Cosine(warmup=0.5), {0: 0.01, 0.25: 0.505, 0.5: 1, 0.75: 0.5, 1: 0}),
        (Step(milestones=[0.5], warmup=0.2), {0.2: 1, 0.59: 1, 0.61: 0.1}),
    ],
)
def test_the_curve(schedule: Schedule, expected: dict[float, float]) -> None:
    assert {p: schedule.factor(p) for p in expected} == pytest.approx(expected)


def test_cosine_and_step_equal_torch() -> None:
    one, two = optimizer(0.3), optimizer(0.3)
    ours = curve(build_schedule("cosine", one, 50), 50)
    assert ours == pytest.approx(curve(CosineAnnealingLR(two, T_max=50), 50))
    one, two = optimizer(0.3), optimizer(0.3)
    ours = curve(build_schedule({"name": "step", "milestones": [0.3, 0.6, 0.9]}, one, 10), 10)
    assert ours == pytest.approx(curve(MultiStepLR(two, milestones=[3, 6, 9]), 10))


def test_restarts_polynomials_and_one_cycle_equal_torch() -> None:
    one, two = optimizer(0.3), optimizer(0.3)
    ours = curve(build_schedule({"name": "cosine_restarts", "cycles": 3, "growth": 2}, one, 70), 70)
    assert ours == pytest.approx(curve(CosineAnnealingWarmRestarts(two, T_0=10, T_mult=2), 70))
    one, two = optimizer(0.3), optimizer(0.3)
    ours = curve(build_schedule({"name": "polynomial", "power": 0.9}, one, 40), 40)
    assert ours == pytest.approx(curve(PolynomialLR(two, total_iters=40, power=0.9), 40))


@pytest.mark.parametrize("name", ["nesterov", "adamw"])
def test_one_cycle_equals_torch(name: str) -> None:
    def momentum(each: Any) -> float:
        group = each.param_groups[0]
        return float(group["betas"][0] if "betas" in group else group["momentum"])

    one, two = (build_optimizer({"name": name, "lr": 0.3}, nn.Linear(2, 2)) for _ in range(2))
    spec = {"name": "one_cycle", "warmup": 0.25, "momentum": [0.85, 0.95]}
    schedule = build_schedule(spec, one, 41)
    theirs = OneCycleLR(two, max_lr=0.3, total_steps=41, pct_start=11 / 41)  # the peak is at step 10 of 0 to 40
    for step in range(41):
        assert one.param_groups[0]["lr"] == pytest.approx(two.param_groups[0]["lr"], rel=1e-6)
        assert momentum(one) == pytest.approx(momentum(two))
        for each, scheduler in ((one, schedule), (two, theirs)) if step < 40 else ():
            each.step()
            scheduler.step()
    assert one.param_groups[0]["lr"] == pytest.approx(0.3 * 4e-6)


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_the_last_step_and_what_follows_it_are_on_the_curve(name: str) -> None:
    """A one-cycle schedule reaches its final factor at the last step. Other schedules reach it after that step."""
    steps, schedule = 50, SCHEDULES.build(name)
    scheduler = build_schedule(name, optimizer(1.0), steps)
    *_, last, after = curve(scheduler, steps + 1)
    ends = isinstance(schedule, Schedule) and schedule.ends_at_last_step
    assert ends == (name == "one_cycle")
    assert last == pytest.approx(schedule(1.0 if ends else 1 - 1 / steps), rel=1e-9)
    assert after == pytest.approx(schedule(1.0), rel=1e-9)
    if "final" in SCHEDULES.entry(name).parameters and name != "plateau":
        assert after == pytest.approx(SCHEDULES.entry(name).parameters["final"].default, abs=1e-12)


def test_momentum_is_cycled_if_present() -> None:
    spec = {"name": "one_cycle", "momentum": [0.85, 0.95]}
    with pytest.raises(SpecError, match=r"^model\.schedule: momentum: expected an optimizer with momentum, got SGD"):
        build_schedule(spec, build_optimizer("sgd", nn.Linear(2, 2)), 10)
    plain = build_optimizer("nesterov", nn.Linear(2, 2))
    scheduler = build_schedule("one_cycle", plain, 10)
    for _ in range(5):
        plain.step()
        scheduler.step()
    assert plain.param_groups[0]["momentum"] == 0.9


def losses(seed: int, count: int) -> list[float]:
    """Return loss values that decrease, are constant and decrease again."""
    noise = torch.randn(count, generator=torch.Generator().manual_seed(seed)) / 50
    return [float(max(1 - i / 20, 0.4) + n) for i, n in enumerate(noise)]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "cooldown", "final"), [(0, 0, 0.0), (2, 0, 0.0), (3, 4, 0.05), (1, 2, 0.3)])
def test_plateau_equals_torch(patience: int, cooldown: int, final: float, mode: Any) -> None:
    one, two = optimizer(0.5), optimizer(0.5)
    rule: dict[str, Any] = {"patience": patience, "cooldown": cooldown, "mode": mode}
    ours = build_schedule({"name": "plateau", "gamma": 0.5, "final": final, **rule}, one, 1000)
    theirs = ReduceLROnPlateau(two, factor=0.5, min_lr=0.5 * final, eps=0.0, **rule)
    for value in losses(seed=patience, count=60):
        signed = value if mode == "min" else -value
        for _ in range(3):  # three steps between two validations
            one.step()
            ours.step()
        ours.observe({"val/loss": signed, "val/acc": 0.0})
        theirs.step(signed)
        assert one.param_groups[0]["lr"] == pytest.approx(two.param_groups[0]["lr"])
        assert ours.get_last_lr() == [one.param_groups[0]["lr"]]
    assert one.param_groups[0]["lr"] < 0.5


def test_plateau_resumes_and_waits_for_warmup() -> None:
    spec = {"name": "plateau", "patience": 1, "gamma": 0.5, "warmup": 0.1}

    def run(scheduler: Any, part: range) -> list[float]:
        rates = []
        for step in part:
            scheduler.optimizer.step()
            scheduler.step()
            if step % 5 == 4:
                scheduler.observe({"val/loss": float("nan") if step > 50 else 1.0})
            rates.append(scheduler.get_last_lr()[0])
        return rates

    whole = run(build_schedule(spec, optimizer(), 100), range(100))
    assert whole[8] == pytest.approx(0.01 + 0.99 * 0.9)
    assert whole[9:14] == [1.0] * 5
    assert whole[-1] < 0.01
    begun = build_schedule(spec, optimizer(), 100)
    first = run(begun, range(43))
    state = copy.deepcopy(begun.state_dict())
    assert all(isinstance(each, int | float | str | list | dict | bool | None) for each in state.values())
    again = build_schedule(spec, optimizer(), 100)
    again.load_state_dict(state)
    assert first + run(again, range(43, 100)) == whole


def test_unknown_metric_is_rejected_with_suggestion() -> None:
    scheduler = build_schedule({"name": "plateau", "monitor": "val/acc_top3"}, optimizer(), 10)
    for look in (scheduler.observe, scheduler.check):
        with pytest.raises(
            UserError, match=r'model\.schedule\.monitor: validation has no "val/acc_top3".*"val/acc_top5"'
        ):
            look({"val/loss": 1.0, "val/acc_top5": 0.5})
    assert Plateau(monitor="val/acc").mode == "max"
    assert Plateau(monitor="val/nll").mode == "min"
    build_schedule("cosine", optimizer(), 10).observe({})  # other schedules ignore it


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


def test_training_without_step_limit() -> None:
    assert curve(build_schedule("constant", optimizer(0.5), float("inf")), 3) == [0.5] * 3
    for spec in ("cosine", {"name": "constant", "warmup": 0.1}):
        for steps in (float("inf"), -1):
            with pytest.raises(UserError, match=r"^model\.schedule: .*trainer\.max_epochs"):
                build_schedule(spec, optimizer(), steps)


def test_other_objects_are_rejected() -> None:
    with pytest.raises(SpecError, match=r"expected a callable"):
        build_schedule("fractions.Fraction", optimizer(), 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin", r'^model\.schedule: no schedule is called "cosin"\. Did you mean "cosine" or'),
        ({"name": "cosine", "warm_up": 0.1}, r'no argument "warm_up"\. Did you mean "warmup"'),
        ({"name": "cosine", "warmup": 5}, r"^model\.schedule.*warmup: expected .*, got 5"),
        ({"name": "cosine", "final": 2.0}, r"^model\.schedule.*final: expected "),
        ({"name": "exponential", "final": 0}, r"^model\.schedule.*final: expected "),
        ({"name": "step", "milestones": [30, 60]}, r"^model\.schedule.*milestones: expected "),
        (
            {"name": "step", "every": 0.2, "milestones": [0.5]},
            r"^model\.schedule: every: expected `milestones` or `every`, got both",
        ),
        ({"name": "step", "gamma": 0}, r"^model\.schedule.*gamma: expected "),
        ({"name": "cosine_restarts", "cycles": 0}, r"^model\.schedule.*cycles: expected .*, got 0"),
        ({"name": "cosine_restarts", "peak": 2.0}, r"^model\.schedule.*peak: expected "),
        ({"name": "one_cycle", "warmup": 0}, r"^model\.schedule.*warmup: expected "),
        (
            {"name": "one_cycle", "momentum": [0.95, 0.85]},
            r"^model\.schedule: momentum: expected \[min, max\]",
        ),
        ({"name": "one_cycle", "shape": "round"}, r"^model\.schedule\.shape: expected"),
        ({"name": "polynomial", "power": 0}, r"^model\.schedule.*power: expected "),
        ({"name": "wsd", "decay": 0}, r"^model\.schedule.*decay: expected "),
        ({"name": "multi_step", "milestones": [1.5]}, r"^model\.schedule.*milestones: expected "),
        ({"name": "multi_step", "every": 0.5}, r'^model\.schedule: the schedule "multi_step" has no argument "every"'),
        ({"name": "plateau", "monitor": "train/loss"}, r"^model\.schedule: monitor: expected a metric of validation"),
        ({"name": "plateau", "patience": -1}, r"^model\.schedule\.patience: expected int >= 0"),
        ({"name": "plateau", "gamma": 1.0}, r"^model\.schedule.*gamma: expected "),
        ({"name": "step", "milestones": "late"}, r"^model\.schedule\.milestones: expected"),
    ],
    ids=str,
)
def test_invalid_values_are_rejected_with_key(spec: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_schedule(spec, "model.schedule")
    with pytest.raises(SpecError, match=message):
        build_schedule(spec, optimizer(), 10, "model.schedule")
