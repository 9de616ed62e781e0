from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import SpecError
from imgrec.models import Classifier, build_classifier, compile_network
from imgrec.regularizers import REGULARIZERS, Jacobian, input_gradient_penalty, jacobian_penalty
from imgrec.types import DataFacts, StepOutput

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=32)
VIT = {"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 24, "num_heads": 2}
RESNET = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
LABELS = torch.tensor([0, 2, 1, 0])


def smooth() -> nn.Sequential:
    """Return a network whose derivatives all exist."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)).double()


def pictures(size: int = 5) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def jacobian_by_hand(model: nn.Module, images: Tensor) -> Tensor:
    """Return the Jacobian ``(batch, classes, pixels)`` with a loop over images."""
    of_one = torch.func.jacrev(lambda image: model(image[None])[0])
    return torch.stack([of_one(image).flatten(1) for image in images])


def test_with_all_axes_it_is_the_jacobian() -> None:
    model, images = smooth(), pictures().double()
    axes = torch.eye(3).double()[:, None].expand(3, 4, 3)
    expected = jacobian_by_hand(model, images).square().sum((1, 2)).mean() / 2
    assert jacobian_penalty(model, images, axes).item() == pytest.approx(expected.item(), rel=1e-5)


def test_random_directions_come_near_to_it() -> None:
    model, images = smooth(), pictures().double()
    expected = jacobian_by_hand(model, images).square().sum((1, 2)).mean() / 2
    torch.manual_seed(0)
    output = StepOutput(images, LABELS, model(images), torch.zeros(4, 1), epoch=0)
    assert Jacobian(projections=300)(output, model).item() == pytest.approx(expected.item(), rel=0.1)


def test_the_input_gradient_is_that_of_each_images_loss() -> None:
    model, images = smooth(), pictures().double()
    soft = F.one_hot(LABELS, 3).double() * 0.7 + 0.1
    for targets in (LABELS, soft):
        lengths = []
        for image, target in zip(images, targets, strict=True):
            pixels = image[None].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(pixels), target[None]), pixels)
            lengths.append(gradient.square().sum().item())
        found = input_gradient_penalty(model, images, targets).item()
        assert found == pytest.approx(sum(lengths) / 8, rel=1e-5)


@pytest.mark.parametrize("name", ["jacobian", "input_gradient"])
def test_their_gradients_are_finite_differences(name: str) -> None:
    model, images = smooth(), pictures().double()
    regularizer = REGULARIZERS.build(name)

    def penalty() -> Tensor:
        torch.manual_seed(0)
        found: Tensor = regularizer(StepOutput(images, LABELS, model(images), torch.zeros(4, 1), epoch=0), model)
        return found

    weight = model.get_parameter("3.weight")
    (gradient,) = torch.autograd.grad(penalty(), weight)
    for place in ((0, 0), (1, 7), (2, 30)):
        values = []
        for shift in (1e-3, -1e-3):
            with torch.no_grad():
                weight[place] += shift
            values.append(penalty().item())
            with torch.no_grad():
                weight[place] -= shift
        assert gradient[place].item() == pytest.approx((values[0] - values[1]) / 2e-3, rel=1e-2)


def test_grey_levels_are_the_pixels_that_they_stand_for() -> None:
    model = smooth().float()
    levels = (pictures() * 255).to(torch.uint8)
    as_levels, as_pixels = (input_gradient_penalty(model, each, LABELS) for each in (levels, levels.float() / 255))
    torch.testing.assert_close(as_levels, as_pixels)


@pytest.mark.parametrize("backbone", [VIT, RESNET], ids=["vit", "resnet"])
@pytest.mark.parametrize("name", ["jacobian", "input_gradient"])
def test_fused_attention_and_batch_norm_can_be_penalized(name: str, backbone: dict[str, Any]) -> None:
    assert torch.isfinite(penalized(name, build_classifier(backbone, "linear", "half", FACTS))).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["jacobian", "pgd"])
def test_a_compiled_network_is_penalized_as_one_that_is_not(name: str) -> None:
    plain = build_classifier(RESNET, "linear", "half", FACTS)
    compiled = copy.deepcopy(plain)
    compile_network(compiled, {"backend": "aot_eager"})
    torch.testing.assert_close(penalized(name, compiled), penalized(name, plain), rtol=1e-3, atol=1e-4)


def penalized(name: str, model: Classifier) -> Tensor:
    """Return the gradient of cross-entropy plus penalty for all weights of the backbone."""
    images = (pictures(32) * 255).to(torch.uint8)
    logits, features, _ = model.forward_all(images)
    torch.manual_seed(1)
    penalty = REGULARIZERS.build(name)(StepOutput(images, LABELS, logits, features, epoch=0), model)
    (F.cross_entropy(logits, LABELS) + penalty).backward()
    found = [p.grad for p in model.backbone.parameters() if p.grad is not None]
    assert len(found) == len(list(model.backbone.parameters()))
    return torch.cat([each.flatten() for each in found])


def test_zero_projections_are_rejected() -> None:
    with pytest.raises(SpecError, match=r"^r\.projections: expected .*, got 0"):
        REGULARIZERS.check({"name": "jacobian", "projections": 0}, "r")
