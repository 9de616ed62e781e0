"""What holds for every registered loss: one test, all entries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgrec.losses import LOSSES

FACTS: dict[str, Any] = {
    "num_classes": 4,
    "class_names": ("cat", "dog", "owl", "yak"),
    "class_counts": (40, 30, 20, 10),
    "feature_dim": 8,
}
ENTRIES = LOSSES.names()


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(0)) * 2


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 1, 0])


def variants(name: str) -> list[dict[str, Any]]:
    """The defaults, and every way to weigh classes where the loss has one."""
    found: list[dict[str, Any]] = [{"name": name}]
    for argument in ("class_weights", "alpha"):
        if argument in LOSSES.entry(name).parameters:
            found += [{"name": name, argument: w} for w in ("balanced", [1.0, 2.0, 3.0, 0.5], {"owl": 2.5})]
    if "label_smoothing" in LOSSES.entry(name).parameters:
        found.append({"name": name, "label_smoothing": 0.1, "class_weights": "balanced"})
    return found


SPECS = [spec for name in ENTRIES for spec in variants(name)]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_logit_gets_a_finite_gradient(spec: dict[str, Any], logits: torch.Tensor, targets: torch.Tensor) -> None:
    logits.requires_grad_(True)
    value = LOSSES.build(spec, **FACTS)(logits, targets)
    assert value.shape == ()
    value.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).all()


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


@pytest.mark.parametrize("name", ENTRIES)
def test_the_gradient_mode_is_left_alone(name: str, logits: torch.Tensor, targets: torch.Tensor) -> None:
    loss = LOSSES.build(name, **FACTS)
    with torch.no_grad():
        value = loss(logits.requires_grad_(True), targets)
        assert not torch.is_grad_enabled()
        assert not value.requires_grad
    assert loss(logits, targets).requires_grad


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_checkpoint_loads_whichever_loss_comes_next(spec: dict[str, Any]) -> None:
    loss = LOSSES.build(spec, **FACTS)
    state = nn.ModuleDict({"loss": loss}).state_dict()
    assert state == {}
    nn.ModuleDict({"loss": LOSSES.build("cross_entropy", **FACTS)}).load_state_dict(state, strict=True)


@pytest.mark.parametrize("name", ENTRIES)
def test_it_says_what_it_is_and_where_it_is_from(name: str) -> None:
    entry = LOSSES.entry(name)
    assert entry.summary.endswith(".")
    assert len(entry.summary) < 120
    assert any(year in entry.reference for year in map(str, range(1950, 2100)))
    assert all(argument.type for argument in entry.arguments())
