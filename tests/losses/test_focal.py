from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from imgrec.errors import SpecError
from imgrec.losses import LOSSES, cross_entropy, focal_loss


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(16, 5, generator=generator), torch.randint(5, (16,), generator=generator)


@pytest.mark.parametrize("alpha", [None, torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])])
def test_zero_gamma_equals_cross_entropy(alpha: torch.Tensor | None) -> None:
    logits, targets = batch()
    shares = torch.rand(16, 5).softmax(dim=1)
    for labels in (targets, shares):
        torch.testing.assert_close(
            focal_loss(logits, labels, gamma=0.0, alpha=alpha), cross_entropy(logits, labels, alpha)
        )


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_two_classes_equal_sigmoid_focal_loss(gamma: float) -> None:
    logits, _ = batch()
    two = torch.stack([torch.zeros(16), logits[:, 0]], dim=1)
    targets = (logits[:, 1] > 0).long()
    theirs = sigmoid_focal_loss(logits[:, 0], targets.float(), alpha=-1, gamma=gamma, reduction="mean")
    torch.testing.assert_close(focal_loss(two, targets, gamma), theirs)


def test_example_of_paper_for_confident_sample() -> None:
    """The loss is a hundredth of cross-entropy for gamma 2 and probability 0.9."""
    logits, target = torch.tensor([[0.9, 0.1]]).log(), torch.tensor([0])
    ratio = cross_entropy(logits, target) / focal_loss(logits, target, gamma=2.0)
    assert ratio.item() == pytest.approx(100, rel=1e-4)


def test_probabilities_equal_definition() -> None:
    logits, _ = batch()
    shares = torch.rand(16, 5).softmax(dim=1)
    alpha = torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])
    q = logits.softmax(dim=1)
    expected = -(shares * alpha * (1 - q) ** 2 * q.log()).sum() / (shares * alpha).sum()
    torch.testing.assert_close(focal_loss(logits, shares, 2.0, alpha), expected)


def test_gradient_equals_finite_differences() -> None:
    logits, targets = batch()
    logits = logits.double().requires_grad_(True)
    alpha = torch.tensor([0.5, 1.0, 2.0, 1.0, 3.0])
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, targets, 1.5, alpha), (logits,))
    shares = F.one_hot(targets, 5).double() * 0.6 + 0.08
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, shares, 1.5, alpha), (logits,))


def test_a_certain_sample_has_a_finite_gradient_for_a_small_gamma() -> None:
    logits = torch.tensor([[100.0, -100.0]], requires_grad=True)
    torch.autograd.backward(focal_loss(logits, torch.tensor([0]), gamma=0.5))
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_negative_gamma_is_rejected() -> None:
    with pytest.raises(SpecError, match=r"^model\.loss\.gamma: expected .*, got -1"):
        LOSSES.check({"name": "focal", "gamma": -1}, "model.loss")
