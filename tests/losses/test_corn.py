"""Ordinal regression against the authors' formula and the number that they print."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imgrec.losses import LOSSES, corn_loss, cross_entropy
from imgrec.models import HEADS, median_class, ordinal_log_probabilities


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return 2 * torch.randn(20, 4, generator=generator, dtype=torch.float64), torch.arange(20) % 5


def authors(conditionals: Any, targets: Any) -> float:
    """Return equation 6 of the paper: the log loss of all binary tasks over the images that they include."""
    total, count = 0.0, 0
    for k in range(conditionals.shape[1]):
        answering = targets >= k
        beyond = targets[answering] > k
        probability = 1 / (1 + np.exp(-conditionals[answering, k]))
        total -= np.log(np.where(beyond, probability, 1 - probability)).sum()
        count += int(answering.sum())
    return total / count


def test_loss_equals_reference_implementation() -> None:
    conditionals, targets = batch()
    expected = authors(conditionals.numpy(), targets.numpy())
    assert corn_loss(ordinal_log_probabilities(conditionals), targets).item() == pytest.approx(expected, rel=1e-12)


def test_documented_value_of_reference_implementation() -> None:
    """The example of `corn_loss` in coral-pytorch 1.4 prints 0.7127."""
    with torch.random.fork_rng():
        torch.manual_seed(123)
        images, targets = torch.rand(8, 99), torch.tensor([0, 1, 2, 2, 2, 3, 4, 4])
        conditionals = torch.nn.Linear(99, 4)(images)
    assert round(corn_loss(ordinal_log_probabilities(conditionals), targets).item(), 4) == 0.7127


def test_log_probabilities_follow_chain_rule() -> None:
    conditionals, _ = batch()
    beyond = 1 / (1 + np.exp(-conditionals.numpy()))
    passed = np.concatenate([np.ones((20, 1)), np.cumprod(beyond, 1)], 1)  # P(y >= k)
    expected = passed - np.concatenate([passed[:, 1:], np.zeros((20, 1))], 1)
    found = ordinal_log_probabilities(conditionals)
    np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-9)
    torch.testing.assert_close(found.logsumexp(1), torch.zeros(20, dtype=torch.float64), atol=1e-12, rtol=0)


def test_extreme_logits_have_finite_gradients() -> None:
    conditionals = torch.tensor([[300.0, -300.0, 0.0], [-300.0, 300.0, 300.0]], requires_grad=True)
    log_p = ordinal_log_probabilities(conditionals)
    assert torch.isfinite(log_p).all()
    (gradient,) = torch.autograd.grad(corn_loss(log_p, torch.tensor([3, 3])), conditionals)
    assert torch.isfinite(gradient).all()
    assert ordinal_log_probabilities(conditionals.bfloat16()).dtype == torch.float32


def test_equal_number_of_tasks_gives_cross_entropy() -> None:
    """If all images are part of the same number of binary tasks, the losses differ by this factor only."""
    conditionals, _ = batch()
    log_p = ordinal_log_probabilities(conditionals)
    for target, questions in ((0, 1), (2, 3), (3, 4), (4, 4)):
        targets = torch.full((20,), target)
        torch.testing.assert_close(questions * corn_loss(log_p, targets), cross_entropy(log_p, targets))


def test_mixed_images_are_weighted_by_shares() -> None:
    conditionals, targets = batch()
    log_p = ordinal_log_probabilities(conditionals)
    others = targets.flip(0)
    shares = (0.7 * F.one_hot(targets, 5) + 0.3 * F.one_hot(others, 5)).double()
    questions = np.array([1, 2, 3, 4, 4])
    lost = -(shares.numpy() * log_p.numpy()).sum()
    asked = (shares.numpy() * questions).sum()
    assert corn_loss(log_p, shares).item() == pytest.approx(lost / asked, rel=1e-12)


def test_class_weights_apply_to_images_and_tasks() -> None:
    conditionals, targets = batch()
    log_p = ordinal_log_probabilities(conditionals)
    weights = torch.tensor([2.0, 1.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    repeated = torch.cat([torch.arange(20), torch.where(targets == 0)[0], *2 * [torch.where(targets == 4)[0]]])
    expected = corn_loss(log_p[repeated], targets[repeated])
    torch.testing.assert_close(corn_loss(log_p, targets, weights), expected)


def test_median_class_equals_reference_prediction() -> None:
    """The number of questions whose unconditional probability is above a half."""
    conditionals, _ = batch()
    beyond = np.cumprod(1 / (1 + np.exp(-conditionals.numpy())), 1)
    expected = (beyond > 0.5).sum(1)
    found = median_class(ordinal_log_probabilities(conditionals))
    assert found.tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 2


def test_median_class_minimizes_absolute_error() -> None:
    probabilities = torch.rand(50, 6, generator=torch.Generator().manual_seed(12)).softmax(1)
    distances = (torch.arange(6)[:, None] - torch.arange(6)).abs().float()
    assert median_class(probabilities.log()).tolist() == (probabilities @ distances).argmin(1).tolist()


def test_head_and_loss_learn_class_order() -> None:
    """Points on a line, cut into five: what is learnt from one feature needs the order."""
    torch.manual_seed(0)
    line = torch.rand(300, 1)
    targets = (5 * line[:, 0]).long()
    head = HEADS.build("corn", feature_dim=1, num_classes=5)
    loss = LOSSES.build("corn")
    optimizer = torch.optim.Adam(head.parameters(), lr=0.5)
    for _ in range(150):
        optimizer.zero_grad()
        value: Any = loss(head(4 * line - 2), targets)
        value.backward()
        optimizer.step()
    predicted = median_class(head(4 * line - 2))
    assert float((predicted == targets).float().mean()) > 0.9
    assert int((predicted - targets).abs().max()) <= 1
