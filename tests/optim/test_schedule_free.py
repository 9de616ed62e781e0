from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgrec.errors import SpecError
from imgrec.optim import build_optimizer, check_optimizer, find_eval_weights_optimizer

SGD: dict[str, Any] = {"name": "schedule_free_sgd", "lr": 0.5, "weight_decay": 0.01, "decay_norm_and_bias": True}
ADAMW: dict[str, Any] = {"name": "schedule_free_adamw", "lr": 0.02, "weight_decay": 0.1, "decay_norm_and_bias": True}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def gradient(model: nn.Module) -> np.ndarray[Any, Any]:
    """Return the gradient of the loss at the current weights."""
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(1)).double()
    model.zero_grad()
    torch.autograd.backward(nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)))
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).numpy().copy()


def flat(model: nn.Module) -> np.ndarray[Any, Any]:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()


def put(model: nn.Module, values: np.ndarray[Any, Any]) -> None:
    nn.utils.vector_to_parameters(torch.from_numpy(values), model.parameters())


def rates(steps: int) -> list[float]:
    """Return the factor of a warm-up, a plateau and a decay."""
    return [min(1.0, (i + 1) / 4) * (1.0 if i < 8 else 0.5) for i in range(steps)]


@pytest.mark.parametrize("spec", [SGD, ADAMW])
def test_steps_are_those_of_the_three_sequences(spec: dict[str, Any]) -> None:
    """Compare with x, y and z of the paper in NumPy. The optimizer stores two of them."""
    model, twin = network(), network()
    optimizer = build_optimizer(spec, model)
    beta, x = 0.9, flat(twin)
    z, square, total, highest = x.copy(), np.zeros_like(x), 0.0, 0.0
    for step, rate in enumerate(rates(12), start=1):
        optimizer.param_groups[0]["lr"] = lr = spec["lr"] * rate
        gradient(model)
        optimizer.step()
        y = (1 - beta) * z + beta * x
        put(twin, y)
        slope = gradient(twin)
        if spec is ADAMW:
            square = 0.999 * square + 0.001 * slope**2
            slope = slope / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        z = z - lr * (slope + spec["weight_decay"] * y)
        highest = max(highest, lr)
        total += highest**2
        x = x + highest**2 / total * (z - x)
        np.testing.assert_allclose(flat(model), (1 - beta) * z + beta * x, rtol=1e-9)
        elsewhere = find_eval_weights_optimizer(optimizer)
        assert elsewhere is not None
        elsewhere.eval()
        np.testing.assert_allclose(flat(model), x, rtol=1e-9)
        elsewhere.train()


def test_with_constant_rates_the_result_is_the_plain_mean_of_the_points() -> None:
    model = network()
    optimizer = build_optimizer({**SGD, "weight_decay": 0.0}, model)
    points = []
    for _ in range(9):
        gradient(model)
        optimizer.step()
        points.append(torch.cat([optimizer.state[p]["z"].flatten() for p in model.parameters()]).numpy().copy())
    elsewhere = find_eval_weights_optimizer(optimizer)
    assert elsewhere is not None
    elsewhere.eval()
    np.testing.assert_allclose(flat(model), np.mean(points, axis=0), rtol=1e-9)


@pytest.mark.parametrize("spec", [SGD, ADAMW])
def test_converges_closer_than_constant_rate(spec: dict[str, Any]) -> None:
    """A noisy bowl: at a constant rate the last point wanders, and the average does not."""

    def loss(x: torch.Tensor) -> float:
        return float((x - 1).square().sum())

    ends = []
    for chosen in (spec, {"name": "sgd", "lr": spec["lr"]} if spec is SGD else {"name": "adamw", "lr": spec["lr"]}):
        model = nn.Linear(10, 1, bias=False).double()
        nn.init.ones_(model.weight)
        optimizer = build_optimizer({**chosen, "weight_decay": 0.0}, model)
        generator = torch.Generator().manual_seed(0)
        for _ in range(600):
            noise = torch.randn(1, 10, generator=generator).double()
            model.weight.grad = 0.2 * (model.weight.detach() - 1 + noise)
            optimizer.step()
        if (elsewhere := find_eval_weights_optimizer(optimizer)) is not None:
            elsewhere.eval()
        ends.append(loss(model.weight.detach()))
    assert ends[0] < 0.5 * ends[1]


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("spec", [SGD, ADAMW])
def test_resume_from_state(spec: dict[str, Any], evaluating: bool) -> None:
    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            gradient(model)
            optimizer.step()

    whole, model, resumed = network(), network(), network()
    train(whole, build_optimizer(spec, whole), 9)
    train(model, optimizer := build_optimizer(spec, model), 4)
    elsewhere = find_eval_weights_optimizer(optimizer)
    assert elsewhere is not None
    if evaluating:
        elsewhere.eval()
    state = copy.deepcopy(optimizer.state_dict())
    elsewhere.eval()
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    again = build_optimizer(spec, resumed)
    again.load_state_dict(state)
    train(resumed, again, 5)
    assert np.array_equal(flat(resumed), flat(whole))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"beta": 0}, r"^model\.optimizer.*beta: expected "),
        ({"beta": 1.0}, r"^model\.optimizer.*beta: expected "),
        ({"beta2": 1.0}, r"^model\.optimizer.*beta2: expected "),
        ({"eps": -1.0}, r"^model\.optimizer.*eps: expected "),
        ({"lr": -1.0}, r"^model\.optimizer.*lr: expected "),
    ],
)
def test_invalid_values_are_rejected_with_key(values: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_optimizer({**ADAMW, **values})
