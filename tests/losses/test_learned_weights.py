"""Weights of losses that are learned, after Kendall, Gal and Cipolla."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from imgrec.errors import SpecError
from imgrec.losses import WeightedSum, build_loss, check_losses

LOGITS = torch.randn(8, 3, generator=torch.Generator().manual_seed(13))
TARGETS = torch.arange(8) % 3
SPECS: list[Any] = [
    {"name": "cross_entropy", "weight": "learned"},
    {"name": "focal", "weight": 0.5},
    {"name": "brier", "weight": "learned"},
]


def built(specs: Any = SPECS) -> WeightedSum:
    loss = build_loss(specs)
    assert isinstance(loss, WeightedSum)
    return loss


def test_total_equals_formula_of_paper() -> None:
    """Equation 10: each loss over its variance, and the logarithm of its deviation."""
    loss = built()
    assert loss.log_variances is not None
    with torch.no_grad():
        loss.log_variances.copy_(torch.tensor([0.7, -0.4]))
    parts = loss.parts(LOGITS, TARGETS)
    deviations = math.exp(0.7 / 2), math.exp(-0.4 / 2)
    expected = parts["cross_entropy"].item() / deviations[0] ** 2 + math.log(deviations[0])
    expected += parts["brier"].item() / deviations[1] ** 2 + math.log(deviations[1])
    expected += 0.5 * parts["focal"].item()
    assert loss(LOGITS, TARGETS).item() == pytest.approx(expected, rel=1e-6)
    assert loss.total(parts).item() == pytest.approx(expected, rel=1e-6)
    assert loss.learned_weights() == pytest.approx({"cross_entropy": math.exp(-0.7), "brier": math.exp(0.4)})


def test_initial_value_is_plain_sum() -> None:
    plain = built([{**spec, "weight": 1.0 if spec["weight"] == "learned" else spec["weight"]} for spec in SPECS])
    torch.testing.assert_close(built()(LOGITS, TARGETS), plain(LOGITS, TARGETS))
    assert plain.learned_weights() == {}
    assert list(plain.parameters()) == []


def test_weight_converges_to_inverse_of_twice_its_loss() -> None:
    """The optimum of L exp(-s) + s / 2."""
    loss = built()
    optimizer = torch.optim.LBFGS(loss.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        value: Any = loss(LOGITS, TARGETS)
        value.backward()
        return float(value.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    parts = loss.parts(LOGITS, TARGETS)
    expected = {name: 1 / (2 * parts[name].item()) for name in ("cross_entropy", "brier")}
    assert loss.learned_weights() == pytest.approx(expected, rel=1e-3)


def test_weights_are_saved_and_loaded() -> None:
    loss, again = built(), built()
    assert loss.log_variances is not None
    with torch.no_grad():
        loss.log_variances.add_(torch.tensor([0.3, -0.2]))
    state = loss.state_dict()
    assert list(state) == ["log_variances"]
    again.load_state_dict(state)
    assert again.learned_weights() == loss.learned_weights()


def test_learned_weights_are_reported() -> None:
    assert built().extra_repr() == "cross_entropy: learned, focal: 0.5, brier: learned"


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            [{"name": "focal", "weight": "learnt"}, "brier"],
            r'\[0\]\.weight: .* got .learnt.\. Did you mean "learned"\?',
        ),
        ([{"name": "focal", "weight": "learned"}], r"\[0\]\.weight: a learned weight requires a second loss"),
    ],
)
def test_invalid_values_are_rejected_with_key(specs: Any, message: str) -> None:
    for call in (check_losses, build_loss):
        with pytest.raises(SpecError, match=rf"^model\.loss{message}"):
            call(specs, "model.loss")
