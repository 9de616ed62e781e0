"""Maps of several stages, compared with other implementations, and removal of unused layers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import timm
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from imgrec.errors import SpecError, UserError
from imgrec.models import BACKBONES, Backbone, ClassifierSpecs, MapBackbone
from imgrec.models.features.feature_maps import last_map_shape, map_shapes, with_maps
from imgrec.models.features.stages import find_stages, torchvision_stages
from imgrec.types import DataFacts

TINY_RESNET = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10], "stem_width": 4}
SWIN = {"name": "swin_tiny_patch4_window7_224", "depths": [1, 1, 1, 1], "embed_dim": 12, "num_heads": [1, 1, 2, 2]}


def build(spec: Any, image_size: int = 64) -> Backbone:
    torch.manual_seed(0)
    backbone = BACKBONES.build(spec, image_size=image_size)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.1)
    return backbone.eval()


def arguments(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key != "name"}


@pytest.mark.parametrize(
    ("spec", "size"),
    [(TINY_RESNET, 64), ({"name": "test_efficientnet"}, 64), ({"name": "test_convnext"}, 64), (SWIN, 224)],
)
def test_timm_maps_equal_features_only(spec: dict[str, Any], size: int) -> None:
    backbone = build(spec, size)
    own = {**arguments(spec), **({"img_size": size} if spec is SWIN else {})}
    reference: Any = timm.create_model(spec["name"], features_only=True, **own)
    state = backbone.network.state_dict()
    renamed = {key: re.sub(r"^(stem|stages|layers)_(\d)", r"\1.\2", key) for key in reference.state_dict()}
    reference.load_state_dict({key: state[own_key] for key, own_key in renamed.items()})
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = reference.eval()(images)
        found = MapBackbone(backbone, range(len(expected)))(images)
    channels = reference.feature_info.channels()
    if spec is SWIN:  # its last normalization belongs to the last map here
        found, expected, channels = found[:-1], expected[:-1], channels[:-1]
    for map_, other, count in zip(found, expected, channels, strict=True):
        there = other.permute(0, 3, 1, 2) if other.shape[1] != count else other
        torch.testing.assert_close(map_, there)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("resnet18", ["relu", "layer1", "layer2", "layer3", "layer4"]),
        ("mobilenet_v2", ["features.1", "features.3", "features.6", "features.13", "features.18"]),
        ("regnet_y_400mf", ["stem", *(f"trunk_output.block{i}" for i in (1, 2, 3, 4))]),
        ("shufflenet_v2_x0_5", ["conv1", "maxpool", "stage2", "stage3", "conv5"]),
    ],
)
def test_torchvision_maps_equal_feature_extractor(name: str, layers: list[str]) -> None:
    backbone = build(f"torchvision/{name}")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = create_feature_extractor(backbone.network, layers)(images)
        found = MapBackbone(backbone, range(5))(images)
    for map_, layer in zip(found, layers, strict=True):
        torch.testing.assert_close(map_, expected[layer])


@pytest.mark.parametrize("kind", ["AlexNet", "VGG", "SqueezeNet", "MobileNetV3", "EfficientNet", "ConvNeXt", "MNASNet"])
def test_torchvision_stages_contain_all_layers_before_pooling(kind: str) -> None:
    names = {
        "AlexNet": "alexnet", "VGG": "vgg11", "SqueezeNet": "squeezenet1_1", "MobileNetV3": "mobilenet_v3_small",
        "EfficientNet": "efficientnet_b0", "ConvNeXt": "convnext_tiny", "MNASNet": "mnasnet0_5",
    }  # fmt: skip
    with torch.device("meta"):
        network = zoo.get_model(names[kind])
    stages = torchvision_stages(network)
    holder = "layers" if kind == "MNASNet" else "features"
    children = [f"{holder}.{name}" for name, _ in network.get_submodule(holder).named_children()]
    assert [name for stage in stages for name in stage] == children
    assert len(stages) >= 4


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "inception_v3", "vit_b_16", "swin_t"])
def test_torchvision_network_without_stages_raises(name: str) -> None:
    with torch.device("meta"):
        network = zoo.get_model(name)
    with pytest.raises(UserError, match="Use the network of timm instead"):
        find_stages(network)


@pytest.mark.parametrize("spec", [{"name": "cifar_resnet", "depth": 8, "widths": [4, 6, 8]}, {"name": "resnet9"}])
def test_maps_of_imgrec_networks_equal_their_stages(spec: dict[str, Any]) -> None:
    spec = spec if spec["name"] != "resnet9" else {**spec, "channels": [4, 6, 8]} | {"blocks": [1, 1]}
    backbone, images = build(spec, 32), torch.randn(2, 3, 32, 32)
    seen: list[Tensor] = []
    network: Any = backbone.network
    for stage in network.stages:
        stage.register_forward_hook(lambda module, given, output: seen.append(output))
    with torch.no_grad():
        backbone(images)
        expected, seen[:] = list(seen), []
        found = MapBackbone(backbone, range(len(network.stage_modules)))(images)
    assert len(found) in (len(expected), len(expected) + 1)  # the stem of ResNet-9 is a separate stage
    for map_, other in zip(found[-len(expected) :], expected, strict=True):
        torch.testing.assert_close(map_, other)


@pytest.mark.parametrize(
    ("spec", "pool"),
    [
        (TINY_RESNET, "mean"),
        ("test_efficientnet", "mean"),
        ({"name": "cifar_resnet", "depth": 8}, "mean"),
        ({"name": "resnet9", "channels": [4, 6, 8], "blocks": [1, 1]}, "amax"),
        ("torchvision/mobilenet_v2", "mean"),
        ("torchvision/shufflenet_v2_x0_5", "mean"),
        ("torchvision/regnet_y_400mf", "mean"),
        ({**SWIN, "window_size": 2}, "mean"),
        ({"name": "vit_tiny_patch16_224", "depth": 1, "global_pool": "avg", "fc_norm": False}, "mean"),
    ],
)
def test_last_map_is_input_of_pooling(spec: Any, pool: str) -> None:
    backbone, images = build(spec), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        (map_,) = MapBackbone(backbone)(images)
        torch.testing.assert_close(getattr(map_, pool)(dim=(2, 3)), backbone(images).pooled)
    assert last_map_shape(backbone, "it", 3, 64) == tuple(map_.shape[1:])


def test_with_maps_removes_unused_modules() -> None:
    backbone = build(TINY_RESNET)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = MapBackbone(backbone, (1, 2))(images)
    draws = torch.get_rng_state()
    cut = with_maps(backbone, (1, 2), 3, 64)
    assert torch.equal(torch.get_rng_state(), draws)
    assert not [key for key in cut.state_dict() if key.startswith(("network.layer3", "network.layer4"))]
    assert {key for key in before if key.startswith("network.layer2")} <= cut.state_dict().keys()
    for key, value in cut.state_dict().items():
        assert torch.equal(value, before[key])
    for map_, other in zip(cut(images), expected, strict=True):
        assert torch.equal(map_, other)
    sum(each.sum() for each in cut.train()(images)).backward()
    assert all(parameter.grad is not None for parameter in cut.parameters())


@pytest.mark.parametrize(
    ("spec", "levels"),
    [
        ("test_vit", (1, 3)),
        ("test_mambaout", (0, 2)),
        ("test_convnext", (0, 1)),
        ("test_efficientnet", ()),
        ({"name": "cait_xxs24_224", "depth": 2}, (0, 1)),
        ("torchvision/mobilenet_v3_small", (1, 2)),
    ],
)
def test_every_trainable_parameter_gets_a_gradient(spec: Any, levels: tuple[int, ...]) -> None:
    cut = with_maps(build(spec), levels, 3, 64).train()
    sum(each.square().sum() for each in cut(torch.randn(2, 3, 64, 64))).backward()
    for name, parameter in cut.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert any(parameter.requires_grad for parameter in cut.parameters())


def test_map_shapes_equal_actual_shapes() -> None:
    backbone = build(TINY_RESNET, 48)
    draws, modes = torch.get_rng_state(), [module.training for module in backbone.modules()]
    shapes = map_shapes(backbone, "it", 3, 48)
    assert torch.equal(torch.get_rng_state(), draws)
    assert modes == [module.training for module in backbone.modules()]
    assert shapes == tuple(tuple(each.shape[1:]) for each in MapBackbone(backbone, range(5))(torch.zeros(1, 3, 48, 48)))
    assert str(shapes[0]) == "64 channels of 24 x 24"


def test_custom_backbone_requires_stage_modules() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone = Backbone(network, 5, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match="has no maps of several stages: Sequential does not define its stages"):
        map_shapes(backbone, "it", 3, 16)
    network.stage_modules = (("0",), ("1",))  # type: ignore[assignment]
    assert [shape.channels for shape in map_shapes(backbone, "it", 3, 16)] == [4, 5]
    assert [tuple(map_.shape) for map_ in with_maps(backbone, (0,), 3, 16)(torch.zeros(1, 3, 16, 16))] == [(1, 4, 8, 8)]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"backbone": "test_vit", "neck": "fpn"},
            r"model\.neck: expected maps of several sizes .* got maps of 10 x 10 pixels only.*`simple_pyramid`",
        ),
        ({"backbone": "torchvision/vit_b_16", "neck": "pan"}, r"model\.neck: the backbone .* cannot be separated"),
        ({"backbone": "torchvision/densenet121", "pooling": "gem"}, r"model\.pooling: the backbone .* has no map"),
        (
            {"backbone": TINY_RESNET, "neck": {"name": "fpn", "levels": [1, 7]}},
            r"model\.neck: levels: .* got \[1, 7\]\. The maps .* are 0: 64 x 112 x 112, 1: 4 x 56 x 56, 2",
        ),
        ({"backbone": TINY_RESNET, "neck": "pfn"}, r'model\.neck: no neck is called "pfn".*"fpn"'),
        ({"backbone": TINY_RESNET, "pooling": "gen"}, r'model\.pooling: no pooling is called "gen".*"gem"'),
        (
            {"backbone": TINY_RESNET, "pooling": {"name": "attention", "heads": 3}},
            r"model\.pooling: heads: expected a divisor of the 10 channels of a map, got 3",
        ),
        (
            {"backbone": TINY_RESNET, "neck": {"name": "fpn", "chanels": 8}},
            r'model\.neck: the neck "fpn" has no argument "chanels".*"channels"',
        ),
        ({"backbone": TINY_RESNET, "neck": "torch.nn.Identity"}, r"expected an imgrec\.models\.Neck, got Identity"),
        (
            {"backbone": TINY_RESNET, "pooling": "torch.nn.Identity"},
            r"expected an imgrec\.models\.Pooling, got Identity",
        ),
    ],
)
def test_invalid_parts_raise_in_check(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ClassifierSpecs(**parts).check()


def test_parts_that_depend_on_images_raise_in_build() -> None:
    specs = ClassifierSpecs(TINY_RESNET, neck="simple_pyramid")
    specs.check()
    with pytest.raises(SpecError, match=r"model\.neck: scales: a map of 1 x 1 pixels cannot be halved"):
        specs.build(DataFacts(("a", "b"), (1, 1), 32))
