from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from imgrec.models import Classifier, build_classifier, set_channels_last
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=32)
BACKBONE: dict[str, object] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 16], "stem_width": 8}


def built() -> Classifier:
    torch.manual_seed(0)
    return build_classifier(BACKBONE, "linear", "imagenet", FACTS)


def orders(model: nn.Module) -> dict[str, bool]:
    """Whether every 4-dimensional tensor that the backbone's modules take and give lies pixel by pixel."""
    found: dict[str, bool] = {}

    def note(name: str) -> object:
        def hook(module: nn.Module, given: tuple[object, ...], gave: object) -> None:
            for i, tensor in enumerate((*given, gave)):
                if isinstance(tensor, Tensor) and tensor.dim() == 4 and tensor.shape[-1] > 1:
                    found[f"{name}.{i}"] = tensor.is_contiguous(memory_format=torch.channels_last)

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(note(name))  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("images", [torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.rand(4, 3, 32, 32)])
def test_every_convolution_sees_pixels_and_the_logits_stay(images: Tensor) -> None:
    model, other = built(), built()
    set_channels_last(other)
    seen = orders(other)
    expected, given = model(images), other(images)
    assert seen
    assert all(seen.values())
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def test_gradients_are_the_same_and_lie_as_their_weights() -> None:
    """A fused optimizer goes through both in the order of memory."""
    model, other = built(), built()
    set_channels_last(other)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    for each in (model, other):
        torch.autograd.backward(nn.functional.cross_entropy(each(images), torch.tensor([0, 1, 2, 0])))
    for (name, ours), theirs in zip(other.named_parameters(), model.parameters(), strict=True):
        assert ours.grad is not None
        assert ours.grad.stride() == ours.stride() or 1 in ours.shape, name
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_the_state_has_the_same_names_shapes_and_values_and_goes_both_ways() -> None:
    model, other = built(), built()
    set_channels_last(other)
    ours, theirs = other.state_dict(), model.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for value in model.parameters():
        value.data.add_(1)
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))
    first = next(module for module in other.modules() if isinstance(module, nn.Conv2d))
    assert first.weight.is_contiguous(memory_format=torch.channels_last)


def test_it_can_be_taken_back() -> None:
    model = built()
    set_channels_last(model)
    set_channels_last(model, False)
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(model(images), built()(images))
    assert all(value.is_contiguous() for value in model.parameters())
    assert not any(orders(model).values())
