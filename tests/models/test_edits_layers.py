"""Effect of each edit on the layers and results of a network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.layers.std_conv import StdConv2d
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models import (
    BlockAttention,
    BlurPool,
    EfficientChannelAttention,
    Separable,
    SqueezeExcitation,
    SwapActivation,
    SwapNorm,
    WeightStandardization,
)
from imgrec.models.edits.separable import nearest_separable
from imgrec.models.utils.activations import activation_of
from imgrec.models.utils.probe import probe
from tests.models.small_models import meta_network, randomize_batch_norms, small_resnet


def images(size: int = 16) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- attention


def test_squeeze_and_excitation_weights_the_branch() -> None:
    network: Any = SqueezeExcitation(reduction=2, image_size=16)(small_resnet())
    end = network.stages[0][0].bn2
    assert (end.se.fc1.in_channels, end.se.fc1.out_channels) == (16, 8)
    maps = torch.randn(2, 16, 4, 4)
    end.eval()
    plain = end.layer(maps)
    hidden = F.relu(F.linear(plain.mean((2, 3)), end.se.fc1.weight.flatten(1), end.se.fc1.bias))
    weights = torch.sigmoid(F.linear(hidden, end.se.fc2.weight.flatten(1), end.se.fc2.bias))
    torch.testing.assert_close(end(maps), plain * weights[:, :, None, None])


@pytest.mark.parametrize("kind", [SqueezeExcitation, EfficientChannelAttention, BlockAttention])
def test_attention_follows_branches_or_named_layers(kind: type[Any]) -> None:
    def places(network: nn.Module) -> list[str]:
        return [name.removesuffix(f".{kind.key}") for name, _ in network.named_modules() if name.endswith(kind.key)]

    assert places(kind(image_size=16)(small_resnet())) == [f"stages.{i}.0.bn2" for i in range(3)]
    assert places(kind(scope="stages.1", image_size=16)(small_resnet())) == ["stages.1.0.bn2"]
    assert places(kind(after=["stages.?", "bn1"], image_size=16)(small_resnet())) == [
        *("bn1", "stages.0", "stages.1", "stages.2")
    ]
    changed = kind(after="features.10", image_size=64)(meta_network("torchvision/vgg11"))
    assert probe(changed, 3, 64).outputs[f"features.10.{kind.key}"].is_map


def test_attention_without_maps_or_branches_raises() -> None:
    with pytest.raises(UserError, match=r"blocks.0.attn.proj.* and 21 more: .*\(N, C, H, W\)"):
        SqueezeExcitation(image_size=64)(meta_network("vit_tiny_patch16_224"))
    with pytest.raises(UserError, match=r"no residual branch. Set `after` to the layers"):
        SqueezeExcitation(image_size=64)(meta_network("torchvision/vgg11"))
    with pytest.raises(UserError, match=r"residual branches\), got both"):
        SqueezeExcitation(scope="stages", after="bn1", image_size=16)(small_resnet())
    with pytest.raises(UserError, match="relu: it is called in several places"):
        SqueezeExcitation(after="layer1.0.relu", image_size=64)(meta_network("torchvision/resnet18"))


# ---------------------------------------------------------------- activations


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "vit_tiny_patch16_224", "torchvision/resnet18"])
def test_swap_activation_keeps_gates(name: str) -> None:
    network = meta_network(name)
    before = [found for m in network.modules() if (found := activation_of(m))]
    changed = SwapActivation("tanh", image_size=64)(network)
    after = [found for m in changed.modules() if (found := activation_of(m))]
    assert after == [each if each == "hardsigmoid" else "tanh" for each in before]
    assert ("hardsigmoid" in after) == (name == "mobilenetv3_small_100")


def test_swapped_activation_is_not_in_place() -> None:
    network: Any = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True))
    maps = network[0](images())
    kept = maps.detach().clone()
    changed: Any = SwapActivation("sigmoid")(network)
    torch.testing.assert_close(changed[1](maps), torch.sigmoid(kept))
    assert torch.equal(maps, kept)


def test_swap_activation_only_and_scope() -> None:
    network = nn.Sequential(nn.ReLU(), nn.SiLU(), nn.Sigmoid(), nn.ReLU())
    changed = SwapActivation("gelu", only=["relu", "sigmoid"], scope="[012]")(network)
    assert [activation_of(m) for m in changed] == ["gelu", "silu", "gelu", "relu"]  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="only: expected activations other than relu"):
        SwapActivation("relu", only="relu")
    with pytest.raises(UserError, match="no mish layer"):
        SwapActivation("relu", only="mish")(small_resnet())


def test_functional_activations_raise() -> None:
    network = meta_network("torchvision/densenet121")
    with pytest.raises(UserError, match=r"\(relu\): the activation is a function call"):
        SwapActivation("silu", image_size=64)(network)
    SwapActivation("silu", scope="features", image_size=64)(network)


# ---------------------------------------------------------------- normalization


def test_swap_norm_axes() -> None:
    maps = 3 + 2 * torch.randn(2, 8, 5, 5)
    values = maps.numpy()
    over = {"group": (2, 3, 4), "layer": (1, 2, 3), "layer2d": (1,), "instance": (2, 3)}
    for kind, axes in over.items():
        network: Any = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8))
        changed: Any = SwapNorm(kind, groups=2, image_size=4)(network)  # type: ignore[arg-type]
        x = values.reshape(2, 2, 4, 5, 5) if kind == "group" else values
        expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
        given = changed[1](maps).detach().numpy()
        np.testing.assert_allclose(given, expected.reshape(values.shape), rtol=1e-3, atol=1e-4)


def test_swap_norm_keeps_scale_shift_and_activation() -> None:
    network = meta_network("efficientnet_b0")
    scale = network.get_submodule("blocks.0.0.bn1").weight
    assert isinstance(scale, nn.Parameter)
    changed: Any = SwapNorm("group", groups=8, image_size=64)(network)
    norm = changed.blocks[0][0].bn1
    assert norm.norm.weight is scale
    assert isinstance(norm.norm, nn.GroupNorm)
    assert isinstance(norm.act, nn.SiLU)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in changed.modules())


def test_number_of_groups() -> None:
    for channels, groups, expected in ((64, 32, 16), (64, 8, 8), (48, 7, 6), (6, 32, 1), (2, 4, 1)):
        network: Any = nn.Sequential(nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels))
        assert SwapNorm("group", groups=groups, image_size=4)(network)[1].num_groups == expected  # type: ignore[index]


def test_swap_norm_of_tokens_raises_in_scope() -> None:
    network = meta_network("mobilevit_xxs")
    with pytest.raises(UserError, match=r"stages.2.1.transformer.*features of positions or tokens"):
        SwapNorm("group", image_size=64)(network)
    assert isinstance(
        SwapNorm("group", scope="stem", image_size=64)(network).get_submodule("stem.bn.norm"), nn.GroupNorm
    )


def test_weight_standardization_formula() -> None:
    network: Any = WeightStandardization(image_size=16)(small_resnet())
    layer = network.stages[1][0].conv1
    assert isinstance(layer, StdConv2d)
    assert set(network.state_dict()) == set(small_resnet().state_dict())
    filters = layer.weight.detach().flatten(1)
    standardized = (filters - filters.mean(1, keepdim=True)) / (
        filters.var(1, correction=0, keepdim=True) + 1e-6
    ).sqrt()
    maps = torch.randn(2, 16, 8, 8)
    expected = F.conv2d(maps, standardized.view_as(layer.weight), stride=2, padding=1)
    torch.testing.assert_close(layer(maps), expected, rtol=1e-4, atol=1e-4)


def test_weight_standardization_skips_gates_and_single_weights() -> None:
    network = SqueezeExcitation(image_size=16)(small_resnet())
    changed: Any = WeightStandardization(image_size=16)(network)
    assert type(changed.stages[0][0].bn2.se.fc1) is nn.Conv2d
    assert isinstance(changed.stages[1][0].shortcut[0], StdConv2d)
    with pytest.raises(UserError, match="no convolution whose weights can be standardized"):
        WeightStandardization(image_size=4)(nn.Sequential(nn.Conv2d(3, 3, 1, groups=3)))


# ---------------------------------------------------------------- blur


@pytest.mark.parametrize("size", [3, 5])
def test_blur_pool_is_binomial_mean(size: Any) -> None:
    torch.manual_seed(0)
    network: Any = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1))
    convolution = network[1]
    maps = torch.randn(1, 4, 12, 12)
    changed: Any = BlurPool(size, image_size=12)(network)
    dense = F.conv2d(maps, convolution.weight, convolution.bias, padding=1).detach()
    row = {3: [1, 2, 1], 5: [1, 4, 6, 4, 1]}[size]
    filter_ = np.outer(row, row) / sum(row) ** 2
    place, half = 4, size // 2  # away from the border
    expected = sum(
        filter_[i, j] * dense[..., place + i - half, place + j - half] for i in range(size) for j in range(size)
    )
    torch.testing.assert_close(changed[1](maps)[..., place // 2, place // 2], torch.as_tensor(expected).float())
    assert changed[2](maps).shape == (1, 4, 6, 6)


def test_blur_pool_reduces_shift_sensitivity() -> None:
    batch = images(32)
    moved = batch.roll(1, dims=3)

    def change(network: nn.Module) -> float:
        randomize_batch_norms(network)
        with torch.no_grad():
            here, there = network.eval()(batch), network(moved)
        return float((here - there).norm() / here.norm())

    assert change(BlurPool(5, image_size=32)(small_resnet())) < 0.8 * change(small_resnet())


def test_blur_pool_keeps_weights_and_sizes() -> None:
    for name in ("resnet18", "efficientnet_b0"):
        plain, changed = meta_network(name), BlurPool(image_size=64)(meta_network(name))
        assert [p.shape for p in plain.parameters()] == [p.shape for p in changed.parameters()]
        assert probe(changed, 3, 64).outputs[""].shape == probe(plain, 3, 64).outputs[""].shape
        first = next(m for m in changed.modules() if isinstance(m, nn.Conv2d))
        assert first.stride == (2, 2)
    with pytest.raises(UserError, match="no convolution or maximum pooling that halves"):
        BlurPool(image_size=64)(meta_network("vit_tiny_patch16_224"))


def test_blur_pool_that_changes_a_size_raises() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(3, 2, ceil_mode=True))
    with pytest.raises(UserError, match="1: a blur would change the size of its maps"):
        BlurPool(image_size=16)(network)


# ---------------------------------------------------------------- separable convolutions


def test_nearest_separable_recovers_separable_weights() -> None:
    depthwise, pointwise = torch.randn(5, 1, 3, 3), torch.randn(7, 5, 1, 1)
    found = nearest_separable(pointwise * depthwise.transpose(0, 1))
    torch.testing.assert_close(found[1] * found[0].transpose(0, 1), pointwise * depthwise.transpose(0, 1))


def test_nearest_separable_error_is_minimal() -> None:
    weight = torch.randn(6, 3, 3, 3)
    depthwise, pointwise = nearest_separable(weight)
    left = (weight - pointwise * depthwise.transpose(0, 1)).numpy()
    for channel in range(3):  # Eckart and Young: the error consists of the other singular values
        values = np.linalg.svd(weight.numpy()[:, channel].reshape(6, 9), compute_uv=False)
        np.testing.assert_allclose((left[:, channel] ** 2).sum(), (values[1:] ** 2).sum(), rtol=1e-4)


def test_separable_keeps_shapes() -> None:
    network: Any = Separable("nearest")(small_resnet())
    assert isinstance(network.conv1, nn.Conv2d)  # the first one is unchanged
    layer = network.stages[1][0].conv1
    assert layer.depthwise.stride == (2, 2)
    assert layer.depthwise.groups == 16
    assert network(images()).shape == (4, 32)
    dense = small_resnet().stages[1][0].conv1.weight  # type: ignore[index]
    product = layer.pointwise.weight * layer.depthwise.weight.transpose(0, 1)
    assert float(((product - dense).norm() / dense.norm()).detach()) < 1
    with pytest.raises(UserError, match="no dense convolution of 3x3 or more"):
        Separable()(meta_network("efficientnet_b0"))


def test_random_separable_preserves_variance() -> None:
    network: Any = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(64, 64, 3, padding=1, bias=False))
    layer: Any = Separable(scope="1")(network)[1]  # type: ignore[index]
    maps = torch.randn(4, 64, 32, 32, generator=torch.Generator().manual_seed(0)).relu()
    assert float(layer(maps).var() / maps.square().mean()) == pytest.approx(2.0, rel=0.35)
