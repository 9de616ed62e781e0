from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import hinge_loss
from torchmetrics.functional.classification import multiclass_hinge_loss

from imgrec.errors import SpecError
from imgrec.losses import LOSSES, crammer_singer_hinge, one_vs_rest_hinge


def batch(classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    logits = torch.rand(16, classes, generator=generator, dtype=torch.float64)
    return logits, torch.arange(16) % classes


def test_crammer_singer_equals_scikit_learn() -> None:
    logits, targets = batch()
    theirs = hinge_loss(targets.numpy(), 4 * logits.numpy(), labels=range(4))
    assert crammer_singer_hinge(4 * logits, targets).item() == pytest.approx(theirs, rel=1e-12)


def test_one_vs_rest_equals_scikit_learn() -> None:
    logits, targets = batch()
    decisions = 4 * logits - 2
    theirs = sum(hinge_loss(np.where(targets == c, 1, -1), decisions[:, c].numpy()) for c in range(4))
    assert one_vs_rest_hinge(decisions, targets).item() == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("squared", [False, True])
def test_both_kinds_equal_torchmetrics(squared: bool) -> None:
    logits, targets = batch()
    theirs = multiclass_hinge_loss(logits, targets, 4, squared=squared)
    torch.testing.assert_close(crammer_singer_hinge(logits, targets, squared=squared), theirs)
    by_class = multiclass_hinge_loss(logits, targets, 4, squared=squared, multiclass_mode="one-vs-all")
    torch.testing.assert_close(one_vs_rest_hinge(logits, targets, squared=squared), by_class.sum())


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("hinge", [crammer_singer_hinge, one_vs_rest_hinge])
def test_mixed_images_are_weighted_by_their_shares(hinge: Any, squared: bool) -> None:
    logits, targets = batch()
    shares = (0.7 * F.one_hot(targets, 4) + 0.3 * F.one_hot(targets.flip(0), 4)).double()
    parts = 0.7 * hinge(logits, targets, 1.5, squared) + 0.3 * hinge(logits, targets.flip(0), 1.5, squared)
    torch.testing.assert_close(hinge(logits, shares, 1.5, squared), parts)


def test_tied_logits_compete() -> None:
    logits = torch.tensor([[2.0, 2.0, 0.0]])
    for target, expected in ((0, 1.0), (1, 1.0), (2, 3.0)):
        assert crammer_singer_hinge(logits, torch.tensor([target])).item() == expected


def test_zero_loss_and_gradient_beyond_margin() -> None:
    logits = torch.tensor([[3.0, 1.9, 0.0]], requires_grad=True)
    for margin, lost in ((1.0, 0.0), (2.0, 0.9)):
        value = crammer_singer_hinge(logits, torch.tensor([0]), margin)
        assert value.item() == pytest.approx(lost)
        (gradient,) = torch.autograd.grad(value, logits)
        assert bool(gradient.any()) == (lost > 0)


def test_an_image_of_several_classes_or_none() -> None:
    logits = torch.tensor([[0.5, -2.0, 0.5], [0.5, -2.0, 0.5]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert one_vs_rest_hinge(logits, labels).item() == pytest.approx(((0.5 + 3 + 1.5) + (1.5 + 0 + 1.5)) / 2)
    weights = torch.tensor([3.0, 1.0, 1.0])  # the first image weighs 2 on average, the second 1
    assert one_vs_rest_hinge(logits, labels, class_weights=weights).item() == pytest.approx((2 * 5 + 3) / 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "hinge", "margin": 0}, r"model\.loss\.margin: expected .*, got 0"),
        ({"name": "hinge", "kind": "one_vs_all"}, r"model\.loss\.kind: expected .*one_vs_rest.*, got 'one_vs_all'"),
    ],
)
def test_invalid_arguments_are_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LOSSES.check(spec, "model.loss")
