"""Losses that ask of every class whether an image has it, against timm's and torch's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from timm.loss.binary_cross_entropy import BinaryCrossEntropy
from torch import Tensor

from imgrec.errors import SpecError
from imgrec.losses import LOSSES, asymmetric_loss, binary_cross_entropy


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return 3 * torch.randn(12, 5, generator=generator), torch.randint(5, (12,), generator=generator)


def shares() -> Tensor:
    _, targets = batch()
    return 0.75 * F.one_hot(targets, 5) + 0.25 * F.one_hot(targets.roll(1), 5)


def several() -> Tensor:
    return torch.randint(2, (12, 5), generator=torch.Generator().manual_seed(8)).float()


# ---------------------------------------------------------------- binary cross-entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mean_over_classes_equals_timm(smoothing: float) -> None:
    logits, targets = batch()
    theirs = BinaryCrossEntropy(smoothing=smoothing)
    found = binary_cross_entropy(logits, targets, label_smoothing=smoothing, reduction="mean")
    torch.testing.assert_close(found, theirs(logits, targets))
    summed = binary_cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(summed, 5 * found)


@pytest.mark.parametrize("threshold", [None, 0.2, 0.3])
def test_thresholded_shares_equal_timm(threshold: float | None) -> None:
    logits, _ = batch()
    theirs = BinaryCrossEntropy(smoothing=0.0, target_threshold=threshold)
    found = binary_cross_entropy(logits, shares(), threshold, reduction="mean")
    torch.testing.assert_close(found, theirs(logits, shares()))


def test_a_share_at_the_threshold_is_not_above_it() -> None:
    logits, _ = batch()
    half = torch.full((12, 5), 0.5)
    torch.testing.assert_close(
        binary_cross_entropy(logits, half, threshold=0.5), binary_cross_entropy(logits, torch.zeros(12, 5))
    )


def test_multilabel_equals_torch() -> None:
    logits, _ = batch()
    theirs = F.binary_cross_entropy_with_logits(logits, several())
    torch.testing.assert_close(binary_cross_entropy(logits, several(), reduction="mean"), theirs)


def test_class_weights_apply_to_whole_images() -> None:
    """The weight of an image applies to all its classes, as in the class-balanced loss of Cui et al."""
    logits, targets = batch()
    weights = torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])
    rows = weights[targets][:, None].expand(-1, 5)
    theirs = F.binary_cross_entropy_with_logits(logits, F.one_hot(targets, 5).float(), rows, reduction="sum")
    found = binary_cross_entropy(logits, targets, class_weights=weights)
    torch.testing.assert_close(found, theirs / weights[targets].sum())


# ---------------------------------------------------------------- asymmetric


@pytest.mark.parametrize(("positive", "negative", "clip"), [(1, 4, 0.05), (0, 2, 0.2), (2, 2, 0.0), (0, 0, 0.0)])
def test_multilabel_asymmetric_loss_equals_timm(positive: int, negative: int, clip: float) -> None:
    logits, targets = batch()
    theirs = AsymmetricLossMultiLabel(gamma_pos=positive, gamma_neg=negative, clip=clip)
    for labels in (several(), F.one_hot(targets, 5).float()):
        found = asymmetric_loss(logits, labels, positive, negative, clip)
        torch.testing.assert_close(found, theirs(logits, labels), rtol=1e-4, atol=1e-5)  # theirs has an epsilon


def test_zero_gamma_and_shift_equal_binary_cross_entropy() -> None:
    logits, targets = batch()
    for labels in (targets, shares(), several()):
        torch.testing.assert_close(
            asymmetric_loss(logits, labels, 0, 0, 0, "mean"), binary_cross_entropy(logits, labels, reduction="mean")
        )


def test_confident_negatives_have_zero_loss() -> None:
    logits = torch.tensor([[0.0, -4.0, 2.0]], requires_grad=True)  # the second class has less than 0.05
    (gradient,) = torch.autograd.grad(asymmetric_loss(logits, torch.tensor([0])), logits)
    assert gradient[0, 1] == 0
    assert (gradient[0, [0, 2]] != 0).all()


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_small_gammas_have_finite_gradients_where_probabilities_round(clip: float) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0]], requires_grad=True)
    for label in range(3):
        value = asymmetric_loss(logits, torch.tensor([label]), 0.5, 0.5, clip)
        (gradient,) = torch.autograd.grad(value, logits)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "bce", "threshold": 1.0}, r"threshold: expected .*, got 1"),
        ({"name": "bce", "label_smoothing": 1.0}, r"label_smoothing: expected "),
        ({"name": "bce", "reduction": "none"}, r"\.reduction: expected .*sum.*mean.*, got 'none'"),
        ({"name": "asymmetric", "gamma_negative": -1}, r"gamma_negative: expected "),
        ({"name": "asymmetric", "gamma_positive": -1}, r"gamma_positive: expected "),
        ({"name": "asymmetric", "clip": 1}, r"clip: expected "),
    ],
)
def test_out_of_range_values_are_rejected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=rf"^model\.loss.*{message}"):
        LOSSES.check(spec, "model.loss")
