"""Losses that are functions of the softmax, against their definitions."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imgrec.errors import SpecError
from imgrec.losses import LOSSES, brier_score, cross_entropy, huber_score, poly_1_loss

WEIGHTS = torch.tensor([0.5, 1.0, 2.0, 1.0], dtype=torch.float64)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    logits = 2 * torch.randn(16, 4, generator=generator, dtype=torch.float64)
    return logits, torch.randint(4, (16,), generator=generator)


def both_targets() -> list[tuple[torch.Tensor, Any]]:
    """Return targets as indices and as mixed probabilities, each with its probabilities."""
    _, targets = batch()
    shares = (0.7 * F.one_hot(targets, 4) + 0.3 * F.one_hot(targets.flip(0), 4)).double()
    return [(targets, np.eye(4)[targets.numpy()]), (shares, shares.numpy())]


def softmax(logits: torch.Tensor) -> Any:
    powers = np.exp(logits.numpy())
    return powers / powers.sum(1, keepdims=True)


def test_brier_is_the_squared_distance() -> None:
    logits, _ = batch()
    for labels, p in both_targets():
        squares = (softmax(logits) - p) ** 2
        assert brier_score(logits, labels).item() == pytest.approx(squares.sum(1).mean(), rel=1e-12)
        assert brier_score(logits, labels, "mean").item() == pytest.approx(squares.mean(), rel=1e-12)
        image_weights = p @ WEIGHTS.numpy()
        weighted = (image_weights * squares.sum(1)).sum() / image_weights.sum()
        assert brier_score(logits, labels, class_weights=WEIGHTS).item() == pytest.approx(weighted, rel=1e-12)


def test_the_brier_score_of_a_published_forecast() -> None:
    """Rain predicted with 70 % that occurred: 0.09 per class, 0.18 in the definition of Brier."""
    logits = torch.tensor([[0.7, 0.3]]).log()
    assert brier_score(logits, torch.tensor([0])).item() == pytest.approx(0.18, rel=1e-6)


def test_a_proper_score_is_least_at_the_right_probabilities() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    logits = p.log().requires_grad_()
    (gradient,) = torch.autograd.grad(brier_score(logits, p), logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-12, rtol=0)


@pytest.mark.parametrize("delta", [0.1, 0.5])
def test_huber_equals_scipy(delta: float) -> None:
    huber = importlib.import_module("scipy.special").huber
    logits, _ = batch()
    for labels, p in both_targets():
        losses = huber(delta, softmax(logits) - p)
        assert huber_score(logits, labels, delta).item() == pytest.approx(losses.sum(1).mean(), rel=1e-12)
        assert huber_score(logits, labels, delta, "mean").item() == pytest.approx(losses.mean(), rel=1e-12)


def test_from_a_delta_of_one_on_huber_is_half_of_brier() -> None:
    logits, targets = batch()
    torch.testing.assert_close(huber_score(logits, targets, 1.0), brier_score(logits, targets) / 2)


@pytest.mark.parametrize("epsilon", [-1.0, 1.0, 2.0])
def test_poly_1_is_the_series_with_another_first_coefficient(epsilon: float) -> None:
    """Equation 4 of the paper: (1 + epsilon) (1 - p) + (1 - p)^2 / 2 + ..."""
    logits, targets = batch()
    doubt = 1 - softmax(logits / 4)[np.arange(16), targets.numpy()]
    terms = [doubt**j / j for j in range(1, 2000)]
    expected = (sum(terms) + epsilon * terms[0]).mean()
    assert poly_1_loss(logits / 4, targets, epsilon).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_poly_1_without_epsilon_is_cross_entropy(weights: torch.Tensor | None, smoothing: float) -> None:
    logits, _ = batch()
    for labels, _ in both_targets():
        torch.testing.assert_close(
            poly_1_loss(logits, labels, 0.0, smoothing, weights), cross_entropy(logits, labels, weights, smoothing)
        )


def test_poly_1_smooths_its_first_term_as_well() -> None:
    """The first term is epsilon times the smoothed sum of 1 - q, as in the code of the paper."""
    logits, _ = batch()
    for labels, p in both_targets():
        smooth = 0.9 * p + 0.1 / 4
        expected = cross_entropy(logits, labels, None, 0.1).item() + 2 * (smooth * (1 - softmax(logits))).sum(1).mean()
        assert poly_1_loss(logits, labels, 2.0, 0.1).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "huber", "delta": 0}, r"delta: expected "),
        ({"name": "poly_1", "epsilon": -1.5}, r"epsilon: expected .*, got -1.5"),
        ({"name": "poly_1", "label_smoothing": 1}, r"label_smoothing: expected "),
        ({"name": "brier", "reduction": "total"}, r"\.reduction: expected .*'total'"),
        ({"name": "brier", "class_weights": "balance"}, r"\.class_weights: expected .*'balance'"),
    ],
)
def test_out_of_range_values_are_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=rf"^model\.loss.*{message}"):
        LOSSES.check(spec, "model.loss")
