"""Penalties on features, against loops over pairs and triplets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import SpecError
from imgrec.regularizers import (
    REGULARIZERS,
    Center,
    Decorrelation,
    agreement,
    build_regularizers,
    center_loss,
    decorrelation_penalty,
    koleo_penalty,
    supervised_contrastive,
    triplet_loss,
)
from imgrec.types import StepOutput

LABELS = torch.tensor([0, 1, 2, 0, 1, 0, 3])


@pytest.fixture
def features() -> Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(0))


def step(features: Tensor, targets: Tensor = LABELS) -> StepOutput:
    return StepOutput(torch.zeros(1), targets, torch.zeros(len(features), 4), features, epoch=0)


# ---------------------------------------------------------------- supervised contrastive


def by_pairs(features: np.ndarray, agree: np.ndarray, temperature: float) -> float:
    """Return L_out of the paper with a loop over images. Mixed images are weighted by their agreement."""
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    total, count = 0.0, 0.0
    for i in range(len(features)):
        others = [j for j in range(len(features)) if j != i]
        exponentials = {j: np.exp(directions[i] @ directions[j] / temperature) for j in others}
        terms = [-agree[i, j] * np.log(exponentials[j] / sum(exponentials.values())) for j in others]
        shares = [agree[i, j] for j in others]
        if sum(shares):
            total += max(shares) * sum(terms) / sum(shares)
            count += max(shares)
    return total / count


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_supervised_contrastive_equals_formula_of_paper(features: Tensor, temperature: float) -> None:
    agree = (LABELS.numpy()[:, None] == LABELS.numpy()[None, :]).astype(float)
    expected = by_pairs(features.double().numpy(), agree, temperature)
    assert supervised_contrastive(features, LABELS, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_mixed_images_count_by_how_much_they_agree(features: Tensor) -> None:
    mixed = 0.6 * F.one_hot(LABELS, 4) + 0.4 * F.one_hot(LABELS.roll(2), 4)
    expected = by_pairs(features.double().numpy(), agreement(mixed).double().numpy(), 0.2)
    assert supervised_contrastive(features, mixed, 0.2).item() == pytest.approx(expected, rel=1e-5)


def test_a_batch_of_one_class_each_has_no_pairs(features: Tensor) -> None:
    features.requires_grad_()
    for some, labels in ((features, torch.arange(7)), (features[:1], LABELS[:1])):
        value = supervised_contrastive(some, labels)
        (gradient,) = torch.autograd.grad(value, features)
        assert value == 0
        assert not gradient.any()


def test_a_projection_is_learnt_and_needs_the_length_of_the_features() -> None:
    spec = {"name": "supervised_contrastive", "projection": 3}
    made = REGULARIZERS.build(spec, feature_dim=5)
    assert {name: tuple(p.shape) for name, p in made.named_parameters() if p.ndim == 2} == {
        "projection.0.weight": (5, 5),
        "projection.2.weight": (3, 5),
    }
    with pytest.raises(SpecError, match=r"^r: projection: requires `feature_dim`"):
        REGULARIZERS.build(spec, "r")


# ---------------------------------------------------------------- triplets


def hard_by_loops(features: np.ndarray, labels: np.ndarray, cost: Callable[[float], float]) -> float:
    apart = np.linalg.norm(features[:, None] - features[None, :], axis=2)
    costs = []
    for i in range(len(labels)):
        same = [j for j in range(len(labels)) if labels[j] == labels[i] and j != i]
        other = [j for j in range(len(labels)) if labels[j] != labels[i]]
        if same and other:
            costs.append(cost(max(apart[i, j] for j in same) - min(apart[i, j] for j in other)))
    return float(np.mean(costs))


def semi_hard_by_loops(features: np.ndarray, labels: np.ndarray, margin: float) -> float:
    apart = np.linalg.norm(features[:, None] - features[None, :], axis=2)
    costs = []
    for i in range(len(labels)):
        for j in range(len(labels)):
            if i != j and labels[i] == labels[j]:
                negatives = [apart[i, k] for k in range(len(labels)) if labels[k] != labels[i]]
                farther = [each for each in negatives if each > apart[i, j]]
                negative = min(farther) if farther else max(negatives)
                costs.append(max(0.0, margin + apart[i, j] - negative))
    return float(np.mean(costs))


@pytest.mark.parametrize("seed", range(5))
def test_triplets_are_those_of_loops(seed: int) -> None:
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))
    labels = torch.randint(4, (12,), generator=torch.Generator().manual_seed(seed + 100))
    x, y = features.double().numpy(), labels.numpy()
    found = triplet_loss(features, labels, margin=0.5).item()
    assert found == pytest.approx(hard_by_loops(x, y, lambda gap: max(0.0, gap + 0.5)), rel=1e-5)
    found = triplet_loss(features, labels, margin="soft").item()
    assert found == pytest.approx(hard_by_loops(x, y, lambda gap: np.log1p(np.exp(gap))), rel=1e-5)
    found = triplet_loss(features, labels, margin=0.5, mining="semi_hard").item()
    assert found == pytest.approx(semi_hard_by_loops(x, y, 0.5), rel=1e-5)


@pytest.mark.parametrize("mining", ["hard", "semi_hard"])
def test_batch_without_triplets_has_zero_loss(features: Tensor, mining: Any) -> None:
    features.requires_grad_()
    for labels in (torch.arange(7), torch.zeros(7, dtype=torch.int64)):
        value = triplet_loss(features, labels, mining=mining)
        (gradient,) = torch.autograd.grad(value, features)
        assert value == 0
        assert not gradient.any()


def test_equal_features_have_finite_gradient() -> None:
    features = torch.ones(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(triplet_loss(features, torch.tensor([0, 0, 1, 1])), features)
    assert torch.isfinite(gradient).all()


def test_pairs_that_agree_in_part_make_no_triplet(features: Tensor) -> None:
    mixed = F.one_hot(LABELS, 4).float()
    mixed[5] = torch.tensor([0.5, 0.5, 0.0, 0.0])
    left = torch.tensor([i for i in range(7) if i != 5])
    # the mixed image shares nothing with the classes 2 and 3 alone, which have no pairs here
    expected = triplet_loss(features[left], LABELS[left], margin="soft")
    torch.testing.assert_close(triplet_loss(features, mixed, margin="soft"), expected)


# ---------------------------------------------------------------- centres


def test_the_distance_to_the_centres_is_half_the_squared_one(features: Tensor) -> None:
    centers = torch.randn(4, 5)
    expected = np.mean([((f - centers[y]) ** 2).sum().item() / 2 for f, y in zip(features, LABELS, strict=True)])
    assert center_loss(features, LABELS, centers).item() == pytest.approx(expected, rel=1e-5)
    soft = 0.25 * F.one_hot(LABELS, 4) + 0.75 * F.one_hot(LABELS.roll(1), 4)
    both = 0.25 * center_loss(features, LABELS, centers) + 0.75 * center_loss(features, LABELS.roll(1), centers)
    torch.testing.assert_close(center_loss(features, soft, centers), both)


@pytest.mark.parametrize("weight", [1.0, 0.01])
def test_speed_of_centres_is_independent_of_weight(features: Tensor, weight: float) -> None:
    made = build_regularizers({"name": "center", "weight": weight}, "r", num_classes=4, feature_dim=5)
    (center,) = made.regularizers
    assert isinstance(center, Center)
    features.requires_grad_()
    total, _ = made(step(features), nn.Identity(), 0.0)
    total.backward()
    assert center.centers.grad is not None
    assert features.grad is not None
    counts = torch.bincount(LABELS, minlength=4)[:, None]
    sums = torch.zeros(4, 5).index_add(0, LABELS, features.detach())
    torch.testing.assert_close(center.centers.grad, (counts * center.centers.detach() - sums) / 7)
    torch.testing.assert_close(features.grad, weight * features.detach() / 7)  # the centres are still at zero


def test_centres_converge_to_mean_of_class(features: Tensor) -> None:
    made = build_regularizers({"name": "center", "weight": 0.001}, "r", num_classes=4, feature_dim=5)
    optimizer = torch.optim.SGD(made.parameters(), lr=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        made(step(features), nn.Identity(), 0.0)[0].backward()
        optimizer.step()
    means = torch.stack([features[label == LABELS].mean(0) for label in range(4)])
    (centers,) = made.parameters()
    torch.testing.assert_close(centers.detach(), means, rtol=1e-3, atol=1e-3)


def test_centres_need_the_length_of_the_features() -> None:
    with pytest.raises(SpecError, match=r"^r: the regularizer center requires `feature_dim`"):
        REGULARIZERS.build("center", "r", num_classes=4)


# ---------------------------------------------------------------- how features lie


def test_decorrelation_is_numpys_covariance(features: Tensor) -> None:
    for standardize, matrix in (
        (False, np.cov(features.double().numpy().T, bias=True)),
        (True, np.corrcoef(features.double().numpy().T)),
    ):
        off = matrix - np.diag(np.diag(matrix))
        found = decorrelation_penalty(features, standardize).item()
        assert found == pytest.approx((off**2).sum() / 2, rel=1e-3)
        mean = Decorrelation(standardize)(step(features), nn.Identity()).item()
        assert mean == pytest.approx((off**2).sum() / 2 / 20, rel=1e-3)


def test_koleo_is_the_nearest_neighbours() -> None:
    features = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    x = F.normalize(features.double(), dim=1).numpy()
    nearest = [min(np.linalg.norm(x[i] - x[j]) for j in range(9) if j != i) for i in range(9)]
    assert koleo_penalty(features).item() == pytest.approx(-np.log(nearest).mean(), rel=1e-5)


def test_koleo_of_equal_features_is_finite() -> None:
    features = torch.ones(3, 4, requires_grad=True)
    value = koleo_penalty(features)
    (gradient,) = torch.autograd.grad(value, features)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "supervised_contrastive", "temperature": 0.0}, "temperature: expected .*, got 0"),
        ({"name": "supervised_contrastive", "projection": 0}, "projection: expected .*, got 0"),
        ({"name": "triplet", "margin": 0.0}, "margin: expected .*, got 0"),
        ({"name": "triplet", "margin": "hard"}, "margin: expected"),
        ({"name": "triplet", "mining": "easy"}, "mining: expected"),
    ],
)
def test_invalid_values_are_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        REGULARIZERS.check(spec, "r")
