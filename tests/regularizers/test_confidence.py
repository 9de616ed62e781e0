from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import entropy  # type: ignore[import-untyped]
from torch import nn

from imgrec.errors import SpecError
from imgrec.regularizers import REGULARIZERS, ConfidencePenalty, EntropyPenalty, prediction_entropy
from imgrec.types import StepOutput


def output(logits: torch.Tensor) -> StepOutput:
    return StepOutput(torch.zeros(1), torch.zeros(1), logits, torch.zeros(1, 2), epoch=0)


def test_entropy_equals_scipy() -> None:
    logits = 3 * torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    expected = entropy(logits.double().softmax(1).numpy(), axis=1)
    torch.testing.assert_close(prediction_entropy(logits), torch.from_numpy(expected).float())
    assert EntropyPenalty()(output(logits), nn.Identity()).item() == pytest.approx(expected.mean(), rel=1e-5)
    expected = math.log(7) - expected.mean()
    assert ConfidencePenalty()(output(logits), nn.Identity()).item() == pytest.approx(expected, rel=1e-5)


def test_no_penalty_above_threshold() -> None:
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]], requires_grad=True)
    penalty = ConfidencePenalty(threshold=0.5)(output(logits), nn.Identity())
    assert penalty.item() == pytest.approx((0.5 - entropy(logits[1].detach().softmax(0).numpy())) / 2, rel=1e-4)
    (gradient,) = torch.autograd.grad(penalty, logits)
    assert not gradient[0].any()
    assert gradient[1].abs().min() > 0


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0], [-1e4, 1e4]], requires_grad=True)
    for penalty in (ConfidencePenalty(), EntropyPenalty()):
        (gradient,) = torch.autograd.grad(penalty(output(logits), nn.Identity()), logits)
        assert torch.isfinite(gradient).all()


def test_negative_threshold_is_rejected() -> None:
    with pytest.raises(SpecError, match=r"^r\.threshold: expected .*, got -1"):
        REGULARIZERS.check({"name": "confidence", "threshold": -1.0}, "r")
