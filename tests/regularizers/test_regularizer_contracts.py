"""What holds for every registered regularizer: one test, all entries."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from imgrec.regularizers import REGULARIZERS
from imgrec.types import StepOutput

ENTRIES = REGULARIZERS.names()
ABOUT = {"bn_scale": ("backbone.1.weight",)}
"""What an entry is about, where that is not every weight."""


class Small(nn.Module):
    """A backbone of two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.head = nn.Linear(6, 4)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images).flatten(1))
        return logits

    def step(self) -> StepOutput:
        images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        features = self.backbone(images).flatten(1)
        return StepOutput(images, torch.tensor([0, 1, 2, 3, 0]), self.head(features), features, epoch=0)


@pytest.mark.parametrize("name", ENTRIES)
def test_what_it_is_about_gets_a_finite_gradient(name: str) -> None:
    model = Small()
    penalty = REGULARIZERS.build(name)(model.step(), model)
    assert penalty.shape == ()
    penalty.backward()
    for weight in ABOUT.get(name, ("backbone.0.weight", "head.weight")):
        gradient = model.get_parameter(weight).grad
        assert gradient is not None
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


@pytest.mark.parametrize("name", ENTRIES)
def test_the_gradient_mode_is_left_alone(name: str) -> None:
    model = Small()
    with torch.no_grad():
        penalty = REGULARIZERS.build(name)(model.step(), model)
        assert not torch.is_grad_enabled()
        assert not penalty.requires_grad


@pytest.mark.parametrize("name", ENTRIES)
def test_it_says_what_it_is_and_where_it_is_from(name: str) -> None:
    entry = REGULARIZERS.entry(name)
    assert entry.summary.endswith(".")
    assert len(entry.summary) < 120
    assert any(year in entry.reference for year in map(str, range(1950, 2100)))
    assert all(argument.type for argument in entry.arguments())
