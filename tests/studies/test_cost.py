from __future__ import annotations

from typing import Any

import pytest
import torch

from imgrec.studies.cost import LiveBytes, TrainingStep, compare_steps, training_step

BASE: dict[str, Any] = {
    "backbone": {"name": "resnet9", "channels": [4, 4, 4, 8], "blocks": [0, 0, 0]},
    "normalize": "half",
    "optimizer": {"name": "sgd", "lr": 0.01},
}


def step(**more: Any) -> TrainingStep:
    return training_step({**BASE, **more}, image_size=16, batch_size=8, num_classes=4)


def test_bytes_are_counted_as_long_as_they_are_held() -> None:
    with LiveBytes() as live:
        first = torch.ones(1000)
        view = first[10:].view(-1)
        assert live.now == 4000
        second = first.double()
        assert live.now == 4000 + 8000
        first.mul_(2)
        assert live.now == 4000 + 8000
        del second
        assert live.now == 4000
        del first
        assert live.now == 4000  # the view holds it
        del view
    assert (live.now, live.peak) == (0, 12_000)


def test_what_the_forward_pass_keeps_for_the_backward_pass_is_counted() -> None:
    weight = torch.zeros(10, 100, requires_grad=True)
    with LiveBytes() as live:
        value = (torch.ones(50, 10) @ weight).exp().sum()
        kept = live.now
        value.backward()  # type: ignore[no-untyped-call]
    ones, exponential, scalar = 50 * 10 * 4, 50 * 100 * 4, 4
    assert kept == ones + exponential + scalar
    assert live.peak >= kept + exponential


def test_a_step_compared_with_itself_has_no_cost() -> None:
    cost = compare_steps(step(), step(), rounds=3)
    assert (cost.memory, cost.parameters) == (0, 0)
    assert 0 < cost.ratio < float("inf")


def test_the_state_of_an_optimizer_is_counted() -> None:
    """Momentum has one value per weight, Adam two. The remaining difference is a few values per tensor."""
    plain = step()
    momentum = step(optimizer={"name": "momentum", "lr": 0.01})
    adam = step(optimizer={"name": "adam", "lr": 0.01})
    tensors = len(list(plain.task.parameters()))
    assert momentum.memory - plain.memory == pytest.approx(4 * plain.parameters, abs=64 * tensors)
    assert adam.memory - plain.memory == pytest.approx(8 * plain.parameters, abs=64 * tensors)


def test_parameters_of_a_head_and_of_a_regularizer_are_counted() -> None:
    plain = step()
    mlp = step(head={"name": "mlp", "hidden": 6})
    assert mlp.parameters - plain.parameters == (8 * 6 + 6 + 6 * 4 + 4) - (8 * 4 + 4)
    center = step(regularizers={"name": "center", "weight": 0.1})
    assert center.parameters - plain.parameters == 4 * 8


@pytest.mark.parametrize(
    "more",
    [
        {"regularizers": {"name": "fgsm", "weight": 1.0}},
        {"optimizer": {"name": "sam", "base": BASE["optimizer"]}},
    ],
)
def test_a_second_pass_trains_and_leaves_no_gradients(more: dict[str, Any]) -> None:
    twice = step(**more)
    before = {name: p.detach().clone() for name, p in twice.task.named_parameters()}
    twice()
    assert any(not torch.equal(p, before[name]) for name, p in twice.task.named_parameters())
    assert all(torch.isfinite(p).all() and p.grad is None for p in twice.task.parameters())
    assert twice.seconds() > 0
