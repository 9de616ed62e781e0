from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from imgrec.models import clear_blind_gradients


def gradient(convolution: nn.Conv2d, images: Tensor, upstream: Tensor) -> Tensor:
    """Return the gradient of the weight, after memory was filled with NaN that a kernel could leave there."""
    for dtype in (torch.bfloat16, torch.float32):
        rubbish = [torch.full_like(convolution.weight, math.nan, dtype=dtype) for _ in range(8)]
        del rubbish
    with torch.autocast("cpu", torch.bfloat16):
        given = convolution(images)
    torch.autograd.backward((given.float() * upstream).sum())
    found = next(convolution.parameters()).grad
    assert found is not None
    return found


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "side", "groups"), [(3, 2, 1, 1), (3, 2, 1, 64), (5, 2, 1, 1), (5, 1, 1, 1), (3, 3, 2, 1)]
)
def test_gradient_equals_independent_computation(
    kernel: int, stride: int, side: int, groups: int, channels_last: bool
) -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(64, 64, kernel, stride, kernel // 2, groups=groups, bias=False)
    order = torch.channels_last if channels_last else torch.contiguous_format
    convolution.to(memory_format=order)
    assert clear_blind_gradients(nn.Sequential(convolution), 64, side) == ["0"]
    images = torch.randn(16, 64, side, side).contiguous(memory_format=order)
    upstream = torch.randn_like(convolution(images))
    expected = conv2d_weight(  # type: ignore[no-untyped-call]
        images.double(), convolution.weight.shape, upstream.double(), stride, kernel // 2, groups=groups
    )
    found = gradient(convolution, images, upstream)
    assert found[expected == 0].abs().max() == 0
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))


def test_unaffected_convolutions_have_no_hook() -> None:
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(4, 4, 3, 2, 1), nn.Conv2d(4, 4, 1)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    assert clear_blind_gradients(networks[0], 4, 16) == []
    assert clear_blind_gradients(networks[0], 4, 5) == ["0"]  # at half the size, a tap only meets padding
    images = torch.randn(2, 4, 5, 5)
    for network in networks:
        with torch.autocast("cpu", torch.bfloat16):
            torch.autograd.backward(network(images).float().square().sum())
    for first, second in zip(networks[0].parameters(), networks[1].parameters(), strict=True):
        assert first.grad is not None
        assert second.grad is not None
        assert torch.equal(first.grad, second.grad)


def test_network_is_unchanged() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, 2, 1)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert clear_blind_gradients(network, 3, 3) == ["0", "2"]
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
