"""Necks, compared with independent computations of the formulas of their papers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from imgrec.errors import SpecError, UserError
from imgrec.models import FPN, NECKS, PAN, BiFPN, ConcatNeck, Neck, SimplePyramid
from imgrec.models.necks.base import norm_layer, pyramid_levels, ratio, select_levels
from imgrec.models.necks.bifpn import fast_fusion

CHANNELS, SIZES = (4, 6, 8, 10), (16, 8, 4, 2)
PLAIN: dict[str, Any] = {"norm": "none", "activation": "identity"}


def maps(channels: tuple[int, ...] = CHANNELS, sizes: tuple[int, ...] = SIZES) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, c, s, s, generator=generator) for c, s in zip(channels, sizes, strict=True))


def select_maps(neck: Neck) -> tuple[Tensor, ...]:
    every = maps()
    return tuple(every[level] for level in neck.levels)


@pytest.mark.parametrize("name", NECKS.names())
def test_neck_shapes_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    neck = NECKS.build(name, map_channels=CHANNELS, map_sizes=SIZES)
    given = tuple(each.requires_grad_() for each in select_maps(neck))
    found = neck(given)
    assert tuple(each.shape[1] for each in found) == neck.out_channels
    assert all(each.shape[2] >= other.shape[2] for each, other in pairwise(found))
    total = sum(each.square().sum() for each in found)
    for gradient in torch.autograd.grad(total, [*neck.parameters(), *given]):
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("name", NECKS.names())
def test_half_precision_and_channels_last(name: str) -> None:
    torch.manual_seed(0)
    neck = NECKS.build(name, map_channels=CHANNELS, map_sizes=SIZES).eval()
    with torch.no_grad():
        expected = neck(select_maps(neck))
        turned = neck.to(memory_format=torch.channels_last)(
            tuple(each.contiguous(memory_format=torch.channels_last) for each in select_maps(neck))
        )
        with torch.autocast("cpu", torch.bfloat16):
            rough = neck(select_maps(neck))
    for exact, other, coarse in zip(expected, turned, rough, strict=True):
        torch.testing.assert_close(other, exact, rtol=1e-4, atol=1e-5)
        assert (coarse.float() - exact).abs().max() < 0.05 * exact.abs().max() + 0.05


def test_fpn_equals_torchvision() -> None:
    torch.manual_seed(0)
    neck = FPN(CHANNELS, SIZES, channels=5, levels=[1, 2, 3], **PLAIN)
    reference = FeaturePyramidNetwork(list(CHANNELS[1:]), 5)
    pairs: Any = zip((*neck.lateral, *neck.smooth), (*reference.inner_blocks, *reference.layer_blocks), strict=True)
    for layer, other in pairs:
        other[0].load_state_dict(layer[0].state_dict())
    expected = reference(dict(zip("abc", maps()[1:], strict=True)))
    with torch.no_grad():
        for found, other in zip(neck(maps()[1:]), expected.values(), strict=True):
            torch.testing.assert_close(found, other)


def test_pan_equals_independent_computation() -> None:
    torch.manual_seed(0)
    neck = PAN(CHANNELS, SIZES, channels=5, **PLAIN)
    pyramid = FPN(CHANNELS, SIZES, channels=5, **PLAIN)
    pyramid.load_state_dict({k: v for k, v in neck.state_dict().items() if not k.startswith(("down", "joined"))})
    state = neck.state_dict()
    with torch.no_grad():
        p = pyramid(maps()[1:])
        n = [p[0]]
        for i in (0, 1):
            down = F.conv2d(n[i], state[f"down.{i}.0.weight"], state[f"down.{i}.0.bias"], stride=2, padding=1)
            both = down + p[i + 1]
            n.append(F.conv2d(both, state[f"joined.{i}.0.weight"], state[f"joined.{i}.0.bias"], padding=1))
        for found, expected in zip(neck(maps()[1:]), n, strict=True):
            torch.testing.assert_close(found, expected)


def test_fast_fusion_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(3))
    weights = torch.tensor([2.0, -1.0, 0.5])
    torch.testing.assert_close(fast_fusion([a, b, c], weights), (2.0 * a + 0.5 * c) / (2.5 + 1e-4))


def test_bifpn_layer_equals_paper() -> None:
    torch.manual_seed(0)
    neck = BiFPN(CHANNELS, SIZES, channels=5, layers=1, norm="none", activation="silu").eval()
    for name, parameter in neck.named_parameters():
        if name.endswith("weights"):
            nn.init.uniform_(parameter, 0.2, 2.0)
    state = neck.state_dict()

    def node(name: str, *inputs: Tensor) -> Tensor:
        w = state[f"layers.0.{name}.weights"]
        fused = sum(w[i] * each for i, each in enumerate(inputs)) / (w.sum() + 1e-4)
        x = F.conv2d(F.silu(fused), state[f"layers.0.{name}.conv.0.weight"], padding=1, groups=5)
        return F.conv2d(x, state[f"layers.0.{name}.conv.1.weight"], state[f"layers.0.{name}.conv.1.bias"])

    def up(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    def down(x: Tensor) -> Tensor:
        return F.max_pool2d(x, 3, 2, 1)

    with torch.no_grad():
        p = [
            F.conv2d(each, state[f"lateral.{i}.0.weight"], state[f"lateral.{i}.0.bias"])
            for i, each in enumerate(maps()[1:])
        ]
        middle = node("top_down.1", p[1], up(p[2]))
        first = node("top_down.0", p[0], up(middle))
        second = node("bottom_up.0", p[1], middle, down(first))
        third = node("bottom_up.1", p[2], down(second))
        for found, expected in zip(neck(maps()[1:]), (first, second, third), strict=True):
            torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", ["finest", "coarsest"])
def test_concat_neck_equals_independent_computation(size: Any) -> None:
    torch.manual_seed(0)
    neck = ConcatNeck(CHANNELS, SIZES, channels=5, levels=[1, 2], size=size, **PLAIN)
    fine, coarse = maps()[1:3]
    if size == "finest":
        coarse = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    else:
        fine = F.avg_pool2d(fine, 2)
    mix: Any = neck.mix[0]
    expected = F.conv2d(torch.cat([fine, coarse], 1), mix.weight, mix.bias)
    (found,) = neck(maps()[1:3])
    torch.testing.assert_close(found, expected)


def test_simple_pyramid_equals_independent_computation() -> None:
    torch.manual_seed(0)
    neck = SimplePyramid((8, 8), (4, 4), channels=5, scales=[0.5, 4, 1, 2], norm="none", activation="identity")
    assert neck.levels == (1,)
    map_ = torch.randn(2, 8, 4, 4)
    with torch.no_grad():
        found = neck((map_,))
        assert [each.shape[2] for each in found] == [16, 8, 4, 2]
        mixed = neck.mixed[-1]
        expected = F.max_pool2d(map_, 2)
        for part in mixed.modules():
            if isinstance(part, nn.Conv2d):
                expected = F.conv2d(expected, part.weight, part.bias, padding=part.padding)
        torch.testing.assert_close(found[-1], expected)


@pytest.mark.parametrize("sizes", [(15, 8, 4, 2), (7, 7, 4, 4), (16, 4, 1, 1), (9, 5, 3, 2)])
@pytest.mark.parametrize("name", ["fpn", "pan", "bifpn", "concat"])
def test_odd_sizes_and_other_ratios(name: str, sizes: tuple[int, ...]) -> None:
    neck = NECKS.build({"name": name, "levels": [0, 1, 2, 3]}, map_channels=CHANNELS, map_sizes=sizes)
    found = neck(maps(sizes=sizes))
    assert [each.shape[2] for each in found] == list(sizes[: len(found)])


def test_images_of_another_size() -> None:
    """Apply a neck to another image size, as a schedule of the image size does."""
    for name in ("fpn", "pan", "bifpn", "concat"):
        neck = NECKS.build({"name": name, "levels": [0, 1, 2, 3]}, map_channels=CHANNELS, map_sizes=SIZES)
        sizes = (12, 6, 3, 2)
        assert neck(maps(sizes=sizes))[0].shape[2] == 12


def test_norm_layer_axes() -> None:
    x = torch.randn(3, 8, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 2
    torch.testing.assert_close(norm_layer("layer", 8)(x), F.layer_norm(x, (8, 5, 5)))
    grouped = norm_layer("group", 48)
    assert isinstance(grouped, nn.GroupNorm)
    assert grouped.num_groups == 24
    assert norm_layer("group", 7)(torch.randn(2, 7, 3, 3)).shape == (2, 7, 3, 3)
    batch = norm_layer("batch", 8)(x)
    torch.testing.assert_close(batch.mean(dim=(0, 2, 3)), torch.zeros(8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "fpn", "channels": 0}, "expected int > 0, got 0"),
        (
            {"name": "fpn", "levels": []},
            r"levels: expected indices of maps, got \[\]\. The .* are 0: 4 x 16 x 16",
        ),
        ({"name": "pan", "levels": [0, -4]}, r"levels: expected different maps, got \[0, -4\]"),
        ({"name": "fpn", "levels": [2]}, "levels: expected maps of several sizes, got .2."),
        ({"name": "bifpn", "layers": 0}, "expected int > 0, got 0"),
        ({"name": "concat", "levels": [1]}, "levels: expected two or more maps, got one"),
        ({"name": "simple_pyramid", "scales": [3]}, "scales: expected some of 4, 2, 1 and 0.5"),
        ({"name": "simple_pyramid", "scales": []}, "scales: expected some of"),
        ({"name": "fpn", "norm": "bach"}, "neck.norm: expected Literal"),
        ({"name": "fpn", "activation": "rellu"}, "neck.activation: expected Literal"),
    ],
)
def test_invalid_neck_raises(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        NECKS.build(spec, "neck", map_channels=CHANNELS, map_sizes=SIZES)


def test_levels() -> None:
    assert pyramid_levels(None, CHANNELS, (8, 8, 4, 2)) == [1, 2, 3]
    assert select_levels([-1, 1], CHANNELS, SIZES) == [1, 3]
    with pytest.raises(UserError, match="got a backbone of one stage"):
        pyramid_levels(None, (8,), (4,))
    assert [ratio(*pair) for pair in ((7, 4), (56, 28), (16, 4), (1, 1), (2, 1), (3, 2))] == [2, 2, 4, 1, 2, 2]
