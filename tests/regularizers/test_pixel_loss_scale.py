"""The gradients of pixels under a loss scale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgrec.models.utils.loss_scale import scaled_losses
from imgrec.regularizers import REGULARIZERS
from imgrec.types import StepOutput


class Half(torch.autograd.Function):
    """A step whose gradient is rounded to float16, as in autocast."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (gradient * 1e-3).half().float() * 1e3


class Underflowing(nn.Module):
    """A linear network, whose gradients of pixels are below 2^-24 in float16 without a loss scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(10, 48, generator=torch.Generator().manual_seed(0)) * 1e-6)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = Half.apply(images.flatten(1)) @ self.weight.T
        return logits


def moved(name: str, scale: float | None) -> Tensor:
    """Return the difference between the images of the last pass and the original ones."""
    seen: list[Tensor] = []
    model = Underflowing()
    model.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    images = torch.full((4, 3, 4, 4), 0.5)
    torch.manual_seed(0)
    output = StepOutput(
        images=images, targets=torch.arange(4), logits=model(images), features=images.flatten(1), epoch=0
    )
    options = {"random_start": False} if name in ("fgsm", "pgd") else {}
    regularizer = REGULARIZERS.build({"name": name, "epsilon": 8, **options}, num_classes=10)
    with scaled_losses(None if scale is None else lambda loss: loss * scale):
        regularizer(output, model)
    return (seen[-1] - images) * 255


@pytest.mark.parametrize("name", ["fgsm", "pgd"])
def test_attacks_move_every_pixel_by_the_loss_scale_of_the_step(name: str) -> None:
    assert moved(name, None).abs().max() == 0  # all gradients underflow
    torch.testing.assert_close(moved(name, 65536.0).abs(), torch.full((4, 3, 4, 4), 8.0), atol=1e-3, rtol=0)


def test_a_virtual_adversarial_direction_is_that_of_the_gradient() -> None:
    start, found = moved("virtual_adversarial", None), moved("virtual_adversarial", 2.0**40)
    assert (start - found).abs().max() > 1  # without a scale the direction stays the random one
    for each in (start, found):
        torch.testing.assert_close(each.square().mean((1, 2, 3)).sqrt(), torch.full((4,), 8.0), rtol=1e-3, atol=0)


def test_gradients_that_overflow_leave_the_images_finite() -> None:
    for name in ("fgsm", "pgd", "virtual_adversarial"):
        assert moved(name, float("inf")).isfinite().all()
