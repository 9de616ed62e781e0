from __future__ import annotations

import pytest
import torch
from timm.layers.drop import DropPath
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from imgrec.models.utils.forward import extra_forward, frozen_batch_stats, has_dropout, same_rng


def images() -> Tensor:
    return torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(3), BatchNormAct2d(3), nn.BatchNorm2d(3, momentum=None)], ids=repr)
def test_frozen_batch_stats_normalizes_by_the_batch(norm: nn.Module) -> None:
    expected = norm(images())
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with frozen_batch_stats(norm):
        torch.testing.assert_close(norm(images()), expected)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    norm(images() + 5)
    assert all(not torch.equal(norm.state_dict()[name], before[name]) for name in ("running_mean", "running_var"))


def test_frozen_norm_uses_running_statistics() -> None:
    norm = nn.BatchNorm2d(3)
    norm(images() * 3 + 1)
    norm.eval()
    expected = norm(images())
    with frozen_batch_stats(norm):
        torch.testing.assert_close(norm(images()), expected)
    assert norm.track_running_stats


def test_error_restores_the_network() -> None:
    norm = nn.BatchNorm2d(3)
    with pytest.raises(RuntimeError, match=r"running_mean|weight"):
        extra_forward(norm, torch.zeros(2, 4, 2, 2))
    assert norm.track_running_stats


def test_gradients_of_several_passes_are_summed() -> None:
    """Compare with one pass over both batches: the buffers of batch normalization are not changed in place."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loss = net(images()).square().sum() + extra_forward(net, images()).square().sum()
    loss.backward()
    weight = net[0].weight
    assert isinstance(weight, Tensor)
    assert weight.grad is not None
    twice = weight.grad.clone()
    net.zero_grad()
    net(images()).square().sum().backward()
    torch.testing.assert_close(twice, 2 * weight.grad)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout2d(0.1), True),
        (nn.AlphaDropout(0.0), False),
        (DropPath(0.2), True),
        (DropPath(0.0), False),
        (StochasticDepth(0.2, "row"), True),
        (nn.Identity(), False),
        (nn.LeakyReLU(0.1), False),
    ],
    ids=repr,
)
def test_has_dropout(module: nn.Module, expected: bool) -> None:
    assert has_dropout(nn.Sequential(nn.Linear(2, 2), module)) is expected


def test_same_rng_repeats_dropout() -> None:
    net = nn.Dropout(0.5)
    with same_rng(torch.device("cpu")):
        first = net(images())
    assert torch.equal(net(images()), first)
    assert not torch.equal(net(images()), first)


def test_attention_is_twice_differentiable() -> None:
    class Attention(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            tokens = images.flatten(2).transpose(1, 2)[:, None]
            return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)

    pixels = images().requires_grad_()
    value = extra_forward(Attention(), pixels, twice_differentiable=True).square().sum()
    (gradient,) = torch.autograd.grad(value, pixels, create_graph=True)
    gradient.square().sum().backward()  # type: ignore[no-untyped-call]
    assert pixels.grad is not None
    assert (pixels.grad != 0).any()


def test_qat_network_keeps_ranges_and_statistics() -> None:
    from imgrec.compress.quantization.qat import QuantizedClassifier
    from imgrec.models import build_classifier
    from imgrec.types import DataFacts

    backbone = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    plain = build_classifier(backbone, "linear", "half", DataFacts(("a", "b"), (1, 1), image_size=32))
    model = QuantizedClassifier(plain, 3, 32).train()
    pixels = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.calibrate(pixels)
    model.set_observer_mode("average")
    model(pixels)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (extra_forward(model, pixels * 0.5).sum() + model(pixels).sum() * 0).backward()
    with frozen_batch_stats(model):
        model(pixels * 0.1)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed  # the plain pass updates them
    after = {name: value.clone() for name, value in model.state_dict().items()}
    extra_forward(model, pixels * 0.2)
    assert all(torch.equal(value, after[name]) for name, value in model.state_dict().items())
