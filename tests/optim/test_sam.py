from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from imgrec.errors import SpecError, UserError
from imgrec.optim import build_optimizer, check_optimizer, sam_perturbation, sharpness_aware
from imgrec.optim.optimizers.wrapper import OptimizerWrapper

BASE = {"name": "nesterov", "lr": 0.05, "weight_decay": 1e-2}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, calls: list[float] | None = None) -> Any:
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    targets = inputs[:, :3].argmax(1)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = nn.functional.cross_entropy(model(inputs), targets)
        torch.autograd.backward(loss)
        if calls is not None:
            calls.append(float(loss.detach()))
        return loss

    return closure


@pytest.mark.parametrize("eta", [None, 0.01])
def test_perturbation_equals_formula_of_paper(eta: float | None) -> None:
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=shape) for shape in ((4, 3, 3, 3), (5, 2), (7,))]
    gradients = [generator.normal(size=w.shape) for w in weights]
    flat = np.concatenate([w.ravel() for w in weights])
    slope = np.concatenate([g.ravel() for g in gradients])
    stretch = np.ones_like(flat) if eta is None else np.abs(flat) + eta
    expected = 0.3 * stretch**2 * slope / np.linalg.norm(stretch * slope)
    found = sam_perturbation([torch.tensor(w) for w in weights], [torch.tensor(g) for g in gradients], 0.3, eta)
    assert np.allclose(np.concatenate([f.numpy().ravel() for f in found]), expected)
    assert [tuple(f.shape) for f in found] == [w.shape for w in weights]


def test_perturbation_is_steepest_in_ball() -> None:
    generator = torch.Generator().manual_seed(0)
    gradient, weight = torch.randn(50, generator=generator), torch.randn(50, generator=generator)
    for eta in (None, 0.1):
        stretch = torch.ones(50) if eta is None else weight.abs() + eta
        best = sam_perturbation([weight], [gradient], 0.5, eta)[0]
        assert torch.linalg.vector_norm(best / stretch) == pytest.approx(0.5)
        others = torch.randn(2000, 50, generator=generator)
        others = 0.5 * others / others.norm(dim=1, keepdim=True) * stretch
        assert (others @ gradient).max() < best @ gradient


def test_zero_gradient_gives_zero_perturbation() -> None:
    for eta in (None, 0.1):
        assert torch.equal(sam_perturbation([torch.ones(3)], [torch.zeros(3)], 0.5, eta)[0], torch.zeros(3))


def test_adaptive_perturbation_is_scale_invariant() -> None:
    """Weights times a and gradients over a: the way is a times as long, so the relative change stays."""
    generator = torch.Generator().manual_seed(0)
    weights, slopes = torch.randn(2, 8, generator=generator), torch.randn(2, 8, generator=generator)
    one = sam_perturbation(list(weights), list(slopes), 0.5, eta=0.0)
    factors = (4.0, 0.25)
    scaled = [w * a for w, a in zip(weights, factors, strict=True)]
    steeper = [s / a for s, a in zip(slopes, factors, strict=True)]
    two = sam_perturbation(scaled, steeper, 0.5, eta=0.0)
    for a, before, after in zip(factors, one, two, strict=True):
        torch.testing.assert_close(before * a, after)


@pytest.mark.parametrize(("name", "eta"), [("sam", None), ("asam", 0.01)])
def test_a_step_is_made_of_its_parts(name: str, eta: float | None) -> None:
    """SAM equals a plain loop: gradient, perturbation, second gradient, restoration, step."""
    model = network()
    twin = copy.deepcopy(model)
    optimizer = build_optimizer({"name": name, "rho": 0.1, "base": BASE}, model)
    plain = build_optimizer(BASE, twin)
    for _ in range(4):
        calls: list[float] = []
        loss = optimizer.step(closure_of(model, optimizer, calls))
        assert len(calls) == 2
        assert float(torch.as_tensor(loss).detach()) == calls[0]
        closure_of(twin, plain)()
        begun = [p.detach().clone() for p in twin.parameters()]
        flat = torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None])
        stretch = torch.cat([(b.abs() + eta).flatten() if eta else torch.ones(b.numel()) for b in begun])
        way = 0.1 * stretch.square() * flat / (stretch * flat).norm()
        parts = way.split([b.numel() for b in begun])
        with torch.no_grad():
            for p, part in zip(twin.parameters(), parts, strict=True):
                p.add_(part.view_as(p))
        higher = closure_of(twin, plain)()
        assert float(higher.detach()) == pytest.approx(calls[1], rel=1e-5)
        assert calls[1] > calls[0]
        with torch.no_grad():
            for p, b in zip(twin.parameters(), begun, strict=True):
                p.copy_(b)
        plain.step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=1e-4, atol=1e-6)


def test_prefers_flat_minimum() -> None:
    """A valley that is narrow and deep at 0.06, and one that is wide at -1: from between them, who goes where."""

    def loss(x: torch.Tensor) -> torch.Tensor:
        return torch.minimum(300 * (x - 0.06).square() - 0.02, 0.05 * (x + 1).square()).sum()

    ends = []
    for spec in ({"name": "sgd", "lr": 0.002}, {"name": "sam", "rho": 0.1, "base": {"name": "sgd", "lr": 0.002}}):
        model = nn.Linear(1, 1, bias=False)
        nn.init.constant_(model.weight, 0.05)
        optimizer = build_optimizer(spec, model)

        def closure(model: nn.Linear = model, optimizer: Any = optimizer) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(model.weight)
            torch.autograd.backward(value)
            return value

        for _ in range(3000):
            optimizer.step(closure)  # type: ignore[arg-type]  # torch annotates float
        ends.append(float(model.weight.detach()))
    assert ends[0] == pytest.approx(0.06, abs=1e-3)
    assert ends[1] < 0


def test_weights_are_restored_exactly() -> None:
    model = network()
    optimizer = sharpness_aware(build_optimizer({"name": "sam", "rho": 3.0, "base": {"name": "sgd", "lr": 0.0}}, model))
    assert optimizer is not None
    before = copy.deepcopy(model.state_dict())
    closure_of(model, optimizer)()
    optimizer.perturb()
    assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])
    optimizer.perturb()  # an interrupted step starts again
    optimizer.restore()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    optimizer.step()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_step_without_second_pass_is_rejected() -> None:
    model = network()
    optimizer = build_optimizer({"name": "sam", "base": "sgd"}, model)
    with pytest.raises(UserError, match="perturb: requires a gradient"):
        sharpness_aware(optimizer).perturb()  # type: ignore[union-attr]
    closure_of(model, optimizer)()
    with pytest.raises(UserError, match="requires two passes"):
        optimizer.step()


def test_wrapper_exposes_state_of_base() -> None:
    model = network()
    optimizer = build_optimizer({"name": "sam", "base": BASE}, model)
    assert isinstance(optimizer, OptimizerWrapper)
    assert optimizer.param_groups is optimizer.base.param_groups
    assert optimizer.state is optimizer.base.state
    stepped: list[int] = []
    optimizer.register_step_post_hook(lambda *_: stepped.append(1))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    for _ in range(3):
        optimizer.step(closure_of(model, optimizer))
        schedule.step()
    assert stepped == [1, 1, 1]
    assert optimizer.base.param_groups[0]["lr"] == 0.05 / 8
    plain = build_optimizer(BASE, network())
    plain.load_state_dict(optimizer.state_dict())
    again = build_optimizer({"name": "asam", "base": BASE}, model)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.param_groups[0]["lr"] == 0.05 / 8
    for mine, theirs in zip(again.state.values(), optimizer.state.values(), strict=True):
        assert torch.equal(mine["momentum_buffer"], theirs["momentum_buffer"])
    assert "around SGD" in repr(optimizer)


def test_scaling_of_base_is_reported() -> None:
    spec = {"name": "sam", "base": {"name": "sgd", "lr": 0.1, "lr_reference_batch": 64}}
    optimizer = build_optimizer(spec, network(), effective_batch=128)
    assert optimizer.lr_scaling.used == 0.2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sam", r'^model\.optimizer: the optimizer "sam" needs the argument "base"'),
        ({"name": "sam", "base": "sgd", "rho": 0}, r"^model\.optimizer.*rho: expected "),
        ({"name": "asam", "base": "sgd", "eta": -1.0}, r"^model\.optimizer.*eta: expected "),
        ({"name": "sam", "base": {"name": "nesterof"}}, r'^model\.optimizer\.base: no optimizer is called "nesterof"'),
        ({"name": "sam", "base": {"name": "sgd", "lr": -1}}, r"^model\.optimizer\.base.*lr: expected "),
        ({"name": "sam", "base": "sgd", "lr": 0.1}, r'^model\.optimizer: the optimizer "sam" has no argument "lr"'),
    ],
    ids=str,
)
def test_invalid_values_are_rejected_with_key(spec: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_optimizer(spec)
    with pytest.raises(SpecError, match=message):
        build_optimizer(spec, network())


def test_nested_wrappers_are_rejected() -> None:
    with pytest.raises(SpecError, match="expected an optimizer that is not sharpness-aware"):
        build_optimizer({"name": "sam", "base": {"name": "asam", "base": "sgd"}}, network())
    with pytest.raises(SpecError, match="base: expected an optimizer or its spec, got int"):
        build_optimizer({"name": "sam", "base": 3}, network())
