"""Losses that do not match the head or the data raise one error before training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgrec import ClassificationTask
from imgrec.augment import Mixup
from imgrec.errors import SpecError, UserError
from imgrec.losses import LOSSES, WeightedSum, build_loss
from imgrec.models import HEADS, CosineHead
from imgrec.tasks.loss_checks import check_cosine_scale, check_mixed_targets

CPU = torch.device("cpu")


class NarrowCosine(CosineHead):
    """A custom cosine head."""


@pytest.mark.parametrize(
    ("loss", "head", "message"),
    [
        ("arcface", "linear", r'^model\.loss: arcface requires the head "cosine", and model\.head is linear'),
        (["focal", "cosface"], "mlp", r'^model\.loss\[1\]: cosface requires the head "cosine", and .* is mlp'),
        ("corn", "linear", r'^model\.loss: corn requires the head "corn", and model\.head is linear'),
        ("corn", {"name": "cosine", "scale": 8.0}, r"^model\.loss: corn requires .* is cosine"),
        ("arcface", {"name": "cosine", "learnable": True}, r"^model\.head: arcface: .*`learnable: false`"),
    ],
)
def test_a_loss_with_another_head_raises(loss: Any, head: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ClassificationTask(loss=loss, head=head)


def test_a_margin_on_the_logits_of_auxiliary_classifiers_raises() -> None:
    with pytest.raises(SpecError, match=r"auxiliary classifiers of torchvision/googlenet have others\. .*auxiliary: f"):
        ClassificationTask(loss="arcface", head="cosine", backbone="torchvision/googlenet")
    ClassificationTask(loss="arcface", head="cosine", backbone={"name": "torchvision/googlenet", "auxiliary": False})


@pytest.mark.parametrize(
    ("loss", "head"),
    [
        ("arcface", "cosine"),
        ([{"name": "cosface", "margin": 0.1}, "brier"], {"name": "cosine", "scale": 8.0}),
        ("arcface", f"{__name__}.NarrowCosine"),
        ("corn", "corn"),
        ("cross_entropy", "corn"),
        ("focal", "cosine"),
    ],
)
def test_a_loss_with_its_head(loss: Any, head: Any) -> None:
    ClassificationTask(loss=loss, head=head)


def test_a_head_with_another_scale_than_its_spec_raises() -> None:
    network = nn.Module()
    head = HEADS.build({"name": "cosine", "scale": 8.0}, feature_dim=4, num_classes=3)
    assert isinstance(head, CosineHead)
    network.head = head
    loss = build_loss(["brier", "arcface"], logit_scale=head.logit_scale)
    check_cosine_scale(loss, network)
    head.load_state_dict(CosineHead(4, 3, scale=30.0).state_dict())
    with pytest.raises(UserError, match=r"^model\.head\.scale: expected 30, .* got 8"):
        check_cosine_scale(loss, network)
    check_cosine_scale(build_loss("brier"), network)


@pytest.mark.parametrize("name", ["MultiMarginLoss", "NLLLoss"])
def test_a_loss_for_class_indices_raises_for_mixed_images(name: str) -> None:
    loss = build_loss(f"torch.nn.{name}")
    check_mixed_targets(loss, None, 3, CPU)
    with pytest.raises(UserError, match=rf"^model\.loss: {name} does not accept class probabilities .*\(Mixup\)"):
        check_mixed_targets(loss, Mixup(num_classes=3), 3, CPU)
    several = WeightedSum([LOSSES.build("focal"), loss])
    with pytest.raises(UserError, match=rf"^model\.loss: {name} does not"):
        check_mixed_targets(several, Mixup(num_classes=3), 3, CPU)


def test_the_check_does_not_change_a_loss_for_class_probabilities() -> None:
    class Counting(nn.Module):
        """A loss that counts its calls and draws random numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.get_buffer("calls").add_(1)
            return (logits * targets * torch.rand(())).sum()

    loss = Counting()
    before = torch.random.get_rng_state()
    check_mixed_targets(loss, Mixup(num_classes=3), 3, CPU)
    check_mixed_targets(build_loss("torch.nn.CrossEntropyLoss"), Mixup(num_classes=3), 3, CPU)
    assert float(loss.get_buffer("calls")) == 0
    assert torch.equal(torch.random.get_rng_state(), before)
