from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgrec.errors import SpecError
from imgrec.optim import Lookahead, build_optimizer, check_optimizer, find_eval_weights_optimizer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1)))
        optimizer.step()


def flat(model: nn.Module) -> np.ndarray[Any, Any]:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).numpy().copy()


def spec(base: Any, **values: Any) -> dict[str, Any]:
    return {"name": "lookahead", "base": base, **values}


@pytest.mark.parametrize("base", ["sgd", {"name": "nesterov", "lr": 0.1}, {"name": "adamw", "lr": 0.02}])
def test_slow_weights_equal_reference_loop(base: Any) -> None:
    """Lookahead equals a plain loop that moves back by a fraction after every third step."""
    model, twin = network(), network()
    optimizer, plain = build_optimizer(spec(base, every=3, alpha=0.3), model), build_optimizer(base, twin)
    slow = flat(twin)
    for step in range(1, 11):
        train(model, optimizer, 1)
        train(twin, plain, 1)
        if step % 3 == 0:
            slow = slow + 0.3 * (flat(twin) - slow)
            nn.utils.vector_to_parameters(torch.from_numpy(slow).clone(), twin.parameters())
        np.testing.assert_allclose(flat(model), flat(twin), rtol=1e-4, atol=1e-6)
    assert isinstance(optimizer, Lookahead)
    optimizer.eval()
    np.testing.assert_allclose(flat(model), slow, rtol=1e-4, atol=1e-6)


def test_step_size_one_equals_base_optimizer() -> None:
    model, twin = network(), network()
    train(model, build_optimizer(spec("adamw", every=2, alpha=1.0), model), 7)
    train(twin, build_optimizer("adamw", twin), 7)
    np.testing.assert_allclose(flat(model), flat(twin), rtol=1e-6)


def test_swapping_to_eval_weights_and_back_is_exact() -> None:
    model = network()
    optimizer = find_eval_weights_optimizer(build_optimizer(spec({"name": "adamw", "lr": 0.05}, every=4), model))
    assert optimizer is not None
    optimizer.eval()  # before any step there is nothing else to evaluate
    optimizer.train()
    begun = flat(model)
    train(model, optimizer, 3)
    fast = flat(model)
    optimizer.eval()
    assert np.array_equal(flat(model), begun)
    optimizer.eval()
    optimizer.train()
    assert np.array_equal(flat(model), fast)
    optimizer.train()
    assert np.array_equal(flat(model), fast)


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 6])
def test_resume_from_state_at_any_step(steps: int, evaluating: bool) -> None:
    """A checkpoint that holds the evaluated weights, and is written in validation or between two steps."""
    whole, model = network(), network()
    given = spec({"name": "adamw", "lr": 0.05}, every=4)
    train(whole, through := build_optimizer(given, whole), 11)
    optimizer = build_optimizer(given, model)
    assert isinstance(optimizer, Lookahead)
    train(model, optimizer, steps)
    if evaluating:
        optimizer.eval()
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.eval()
    resumed = network()
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    again = build_optimizer(given, resumed)
    again.load_state_dict(state)
    train(resumed, again, 11 - steps)
    assert np.array_equal(flat(resumed), flat(whole))
    for mine, theirs in zip(again.state.values(), through.state.values(), strict=True):
        assert torch.equal(mine["slow"], theirs["slow"])


def test_slow_weights_of_unfrozen_parameter_start_at_unfreezing() -> None:
    model = network()
    optimizer = build_optimizer(spec({"name": "adamw", "lr": 0.05}, every=2), model)
    first = model[0]
    assert isinstance(first, nn.Linear)
    first.weight.requires_grad_(False)
    before = first.weight.detach().clone()
    train(model, optimizer, 3)
    assert torch.equal(first.weight, before)
    assert first.weight not in optimizer.state
    first.weight.requires_grad_(True)
    train(model, optimizer, 1)
    assert torch.equal(optimizer.state[first.weight]["slow"], first.weight)
    assert not torch.equal(first.weight, before)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every": 0}, r"^model\.optimizer.*every: expected .*, got 0"),
        ({"alpha": 0}, r"^model\.optimizer.*alpha: expected "),
        ({"alpha": 1.5}, r"^model\.optimizer.*alpha: expected "),
        ({"k": 5}, r'^model\.optimizer: the optimizer "lookahead" has no argument "k"'),
    ],
)
def test_invalid_values_are_rejected_with_key(values: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_optimizer(spec("sgd", **values))


def test_two_eval_weight_optimizers_are_rejected() -> None:
    for base in ("schedule_free_sgd", spec("sgd"), {"name": "sam", "base": "schedule_free_adamw"}):
        with pytest.raises(SpecError, match="expected an optimizer without evaluation weights"):
            build_optimizer(spec(base), network())
