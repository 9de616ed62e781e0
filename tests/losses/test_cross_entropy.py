from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from imgrec.errors import SpecError
from imgrec.losses import LOSSES, cross_entropy

WEIGHTS = torch.tensor([0.5, 1.0, 2.0])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 3, generator=generator, dtype=torch.float64), torch.randint(3, (8,), generator=generator)


def by_hand(logits: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor, smoothing: float) -> float:
    """Compute the definition with a loop over scalars."""
    classes = logits.shape[1]
    total = norm = 0.0
    for row, share in zip(logits.tolist(), shares.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(x) for x in row))
        for label in range(classes):
            weight = weights[label].item() * share[label]
            for c in range(classes):
                target = (1 - smoothing) * (c == label) + smoothing / classes
                total += weight * target * (log_sum - row[c])
            norm += weight
    return total / norm


@pytest.mark.parametrize(("smoothing", "weights"), [(0.0, None), (0.0, WEIGHTS), (0.1, None)])
def test_indices_equal_torch(smoothing: float, weights: torch.Tensor | None) -> None:
    logits, targets = batch()
    theirs = F.cross_entropy(logits, targets, None if weights is None else weights.double(), label_smoothing=smoothing)
    torch.testing.assert_close(cross_entropy(logits, targets, weights, smoothing), theirs)
    one_hot = cross_entropy(logits, F.one_hot(targets, 3).double(), weights, smoothing)
    torch.testing.assert_close(one_hot, theirs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_probabilities_equal_definition(smoothing: float, weights: torch.Tensor | None) -> None:
    logits, _ = batch()
    shares = torch.rand(8, 3, dtype=torch.float64).softmax(dim=1)
    expected = by_hand(logits, shares, torch.ones(3) if weights is None else weights, smoothing)
    assert cross_entropy(logits, shares, weights, smoothing).item() == pytest.approx(expected, rel=1e-12)


def test_weighted_smoothing_gives_indices_and_one_hot_probabilities_the_definition() -> None:
    """The definition of torch moves the optimum (pytorch#104776). See test_smoothed_optimum.py."""
    logits, targets = batch()
    expected = by_hand(logits, F.one_hot(targets, 3).double(), WEIGHTS, 0.1)
    for labels in (targets, F.one_hot(targets, 3).double()):
        assert cross_entropy(logits, labels, WEIGHTS, 0.1).item() == pytest.approx(expected, rel=1e-12)


def test_a_mixed_batch_is_linear_in_its_targets() -> None:
    logits, targets = batch()
    mixed = 0.3 * F.one_hot(targets, 3) + 0.7 * F.one_hot(targets.flip(0), 3)
    parts = 0.3 * cross_entropy(logits, targets) + 0.7 * cross_entropy(logits, targets.flip(0))
    torch.testing.assert_close(cross_entropy(logits, mixed.double()), parts)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_label_smoothing_has_a_range(smoothing: float) -> None:
    with pytest.raises(SpecError, match=r"^model\.loss\.label_smoothing: expected "):
        LOSSES.check({"name": "cross_entropy", "label_smoothing": smoothing}, "model.loss")
