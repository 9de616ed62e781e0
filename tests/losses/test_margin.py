"""Margin losses against the geometry that they are about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from imgrec.errors import SpecError
from imgrec.losses import LOSSES, arcface_logits, cosface_logits, cross_entropy
from imgrec.models import CosineHead

SCALE = 16.0


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(10)
    cosines = 1.8 * torch.rand(16, 5, generator=generator, dtype=torch.float64) - 0.9
    return SCALE * cosines, torch.randint(5, (16,), generator=generator)


def test_arcface_rotates_features_away_from_class() -> None:
    """The logits equal those of features rotated away from their class, in two dimensions."""
    margin = 0.3
    features, classes = np.array([0.1, 2.0, -1.0]), np.array([0.4, 1.5, 3.0])  # angles
    logits = torch.tensor(SCALE * np.cos(features[:, None] - classes))
    for i in range(3):
        for target in range(3):
            apart = np.arccos(np.cos(features[i] - classes[target]))
            if apart + margin > math.pi:
                continue
            expected = logits[i].clone()
            further = features[i] + (margin if np.sin(features[i] - classes[target]) > 0 else -margin)
            expected[target] = SCALE * np.cos(further - classes[target])
            found = arcface_logits(logits[i : i + 1], torch.tensor([target]), SCALE, margin)
            torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("margin", [0.1, 0.5, 1.0])
def test_arcface_beyond_pi_is_linear(margin: float) -> None:
    angles = torch.linspace(0.01, math.pi - 0.01, 200, dtype=torch.float64)
    logits = torch.stack([SCALE * angles.cos(), torch.zeros_like(angles)], 1)
    found = arcface_logits(logits, torch.zeros(200, dtype=torch.int64), SCALE, margin)[:, 0] / SCALE
    theta = angles.numpy()
    threshold, lowered = math.cos(math.pi - margin), math.sin(math.pi - margin) * margin
    expected = np.where(np.cos(theta) > threshold, np.cos(theta + margin), np.cos(theta) - lowered)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
    assert (np.diff(found.numpy()) < 0).all()  # the further away, the worse


def test_cosface_subtracts_margin_from_cosine() -> None:
    logits, targets = batch()
    expected = logits.numpy().copy()
    expected[np.arange(16), targets.numpy()] -= SCALE * 0.35
    np.testing.assert_allclose(cosface_logits(logits, targets, SCALE).numpy(), expected)


@pytest.mark.parametrize("name", ["arcface", "cosface"])
def test_loss_is_cross_entropy_of_margin_logits(name: str) -> None:
    logits, targets = batch()
    loss = LOSSES.build({"name": name, "margin": 0.2}, logit_scale=SCALE)
    changed = {"arcface": arcface_logits, "cosface": cosface_logits}[name](logits, targets, SCALE, 0.2)
    torch.testing.assert_close(loss(logits, targets), cross_entropy(changed, targets))
    assert loss(logits, targets) > cross_entropy(logits, targets)


@pytest.mark.parametrize("change", [arcface_logits, cosface_logits])
def test_margin_of_mixed_image_is_weighted_by_shares(change: Any) -> None:
    logits, targets = batch()
    others = (targets + 1) % 5
    shares = (0.75 * F.one_hot(targets, 5) + 0.25 * F.one_hot(others, 5)).double()
    found = change(logits, shares, SCALE, 0.4)
    rows = torch.arange(16)
    first, second = change(logits, targets, SCALE, 0.3), change(logits, others, SCALE, 0.1)
    torch.testing.assert_close(found[rows, targets], first[rows, targets])
    torch.testing.assert_close(found[rows, others], second[rows, others])
    rest = shares == 0
    torch.testing.assert_close(found[rest], logits[rest])


def test_parallel_features_have_finite_gradient() -> None:
    cosines = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0000001, -1.0000001]])
    logits = (SCALE * cosines).requires_grad_()
    for label in (0, 1):
        value = cross_entropy(arcface_logits(logits, torch.full((3,), label), SCALE, 0.5), torch.full((3,), label))
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(gradient).all()


def test_head_reports_constant_scale() -> None:
    assert CosineHead(8, 3, scale=30.0).logit_scale == 30.0
    assert CosineHead(8, 3, learnable=True).logit_scale is None


def won_by(spec: str) -> float:
    """Return the smallest angular margin after 150 steps on free points, from a fixed start."""
    torch.manual_seed(0)
    points = torch.nn.Parameter(torch.randn(60, 3))
    targets = torch.arange(60) % 4
    head = CosineHead(3, 4, scale=SCALE)
    loss = LOSSES.build(spec, logit_scale=head.logit_scale)
    optimizer = torch.optim.Adam([points, *head.parameters()], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        value: Any = loss(head(points), targets)
        value.backward()
        optimizer.step()
    angles = (head(points).detach() / SCALE).clamp(-1, 1).acos()
    own = angles.gather(1, targets[:, None])[:, 0]
    return float((angles.scatter(1, targets[:, None], 9.0).amin(1) - own).min())


def test_margin_increases_class_separation() -> None:
    """0.11 radians with cross-entropy, 0.78 with ArcFace, 0.61 with CosFace."""
    plain = won_by("cross_entropy")
    assert 0 < plain < 0.3
    assert won_by("arcface") > plain + 0.3
    assert won_by("cosface") > plain + 0.3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "arcface", "margin": 0}, r"margin: expected .*, got 0"),
        ({"name": "arcface", "margin": 2}, r"margin: expected .*, got 2"),
        ({"name": "cosface", "margin": 1.5}, r"margin: expected .*, got 1\.5"),
    ],
)
def test_margin_out_of_range_is_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=rf"^model\.loss.*{message}"):
        LOSSES.check(spec, "model.loss", ("logit_scale",))


def test_margin_requires_scale() -> None:
    with pytest.raises(SpecError, match=r"^model\.loss: a margin loss requires the logits of a cosine head"):
        LOSSES.build("arcface", "model.loss")
