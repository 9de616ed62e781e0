"""Contract tests of all registered losses."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgrec.losses import LOSSES, ClassWeights

FACTS: dict[str, Any] = {
    "num_classes": 4,
    "class_names": ("cat", "dog", "owl", "yak"),
    "class_counts": (40, 30, 20, 10),
    "feature_dim": 8,
    "logit_scale": 16.0,
}
ENTRIES = LOSSES.names()


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 2


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 1, 0])


def variants(name: str) -> list[dict[str, Any]]:
    """Return specs with the defaults, every literal value of an argument and every form of class weights."""
    entry = LOSSES.entry(name)
    found: list[dict[str, Any]] = [{"name": name}]
    weights = next((a for a in ("class_weights", "alpha") if entry.hints.get(a) == ClassWeights), None)
    if weights is not None:
        ways: list[Any] = ["balanced", "effective", [1.0, 2.0, 3.0, 0.5], {"owl": 2.5}]
        found += [{"name": name, weights: way} for way in ways]
    for argument, hint in entry.hints.items():
        if get_origin(hint) is Literal:
            found += [{"name": name, argument: word} for word in get_args(hint)]
        if hint is bool:
            found.append({"name": name, argument: not entry.parameters[argument].default})
    if "label_smoothing" in entry.parameters:
        found.append({"name": name, "label_smoothing": 0.1, **({weights: "balanced"} if weights else {})})
    return found


def mixed(targets: torch.Tensor) -> torch.Tensor:
    """Return targets mixed as by Mixup, with one or two classes per image."""
    return 0.7 * F.one_hot(targets, 4).float() + 0.3 * F.one_hot(targets.flip(0), 4)


SPECS = [spec for name in ENTRIES for spec in variants(name)]
UNWEIGHTED = [spec for spec in SPECS if not {"class_weights", "alpha"} & set(spec)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_initial_gradient_of_every_image_and_class_is_nonzero(
    spec: dict[str, Any], logits: torch.Tensor, targets: torch.Tensor
) -> None:
    logits = (0.05 * logits).requires_grad_(True)
    loss = LOSSES.build(spec, **FACTS)
    for labels in (targets, mixed(targets)):
        value = loss(logits, labels)
        assert value.shape == ()
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any(1).all()
        assert (gradient != 0).any(0).all()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_gradient_is_that_of_finite_differences(
    spec: dict[str, Any], logits: torch.Tensor, targets: torch.Tensor
) -> None:
    loss = LOSSES.build(spec, **FACTS).double()
    logits = logits.double().requires_grad_(True)
    for labels in (targets, mixed(targets).double()):
        assert torch.autograd.gradcheck(loss, (logits, labels), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("spec", UNWEIGHTED, ids=str)
def test_optimization_lowers_loss_and_learns_classes(
    spec: dict[str, Any], logits: torch.Tensor, targets: torch.Tensor
) -> None:
    """Minimize the loss over free logits of its head."""
    loss = LOSSES.build(spec, **FACTS)
    free = torch.zeros_like(logits).requires_grad_(True)
    first = loss(free, targets).item()
    for _ in range(20):
        value = loss(free, targets)
        (gradient,) = torch.autograd.grad(value, free)
        free = (free - gradient / gradient.norm(dim=1, keepdim=True).clamp_min(1e-12) * 0.2).detach().requires_grad_()
    assert loss(free, targets).item() < 0.9 * first
    assert torch.equal(free.argmax(1), targets)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_one_hot_probabilities_are_indices(spec: dict[str, Any], logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = LOSSES.build(spec, **FACTS)
    torch.testing.assert_close(loss(logits, F.one_hot(targets, 4).float()), loss(logits, targets))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_extreme_logits_stay_finite(spec: dict[str, Any], targets: torch.Tensor) -> None:
    logits = (F.one_hot(targets, 4).float() * 200 - 100).requires_grad_(True)
    loss = LOSSES.build(spec, **FACTS)
    for labels in (targets, targets.flip(0)):
        value = loss(logits, labels)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ENTRIES)
def test_half_precision_logits_give_a_float32_loss(name: str, logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = LOSSES.build(name, **FACTS)
    for labels in (targets, F.one_hot(targets, 4).float()):
        value = loss(logits.bfloat16(), labels)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(logits.bfloat16().float(), labels))


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_autocast_has_no_effect(spec: dict[str, Any], logits: torch.Tensor, targets: torch.Tensor) -> None:
    """A training step computes its loss within it, from logits that are in half precision already."""
    loss, half = LOSSES.build(spec, **FACTS), logits.bfloat16()
    for labels in (targets, mixed(targets)):
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(half, labels)
        torch.testing.assert_close(value, loss(half.float(), labels))


@pytest.mark.parametrize("name", ENTRIES)
def test_gradient_mode_is_preserved(name: str, logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = LOSSES.build(name, **FACTS)
    with torch.no_grad():
        value = loss(logits.requires_grad_(True), targets)
        assert not torch.is_grad_enabled()
        assert not value.requires_grad
    assert loss(logits, targets).requires_grad


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_checkpoint_loads_with_another_loss(spec: dict[str, Any]) -> None:
    loss = LOSSES.build(spec, **FACTS)
    state = nn.ModuleDict({"loss": loss}).state_dict()
    assert state == {}
    nn.ModuleDict({"loss": LOSSES.build("cross_entropy", **FACTS)}).load_state_dict(state, strict=True)


@pytest.mark.parametrize("name", ENTRIES)
def test_docstring_has_summary_and_source(name: str) -> None:
    entry = LOSSES.entry(name)
    assert entry.summary.endswith(".")
    assert len(entry.summary) < 120
    assert any(year in entry.reference for year in map(str, range(1950, 2100)))
    assert all(argument.type for argument in entry.arguments())
