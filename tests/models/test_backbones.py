from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
import torchvision.models as zoo
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from imgrec.errors import SpecError, UserError
from imgrec.models import BACKBONES, Backbone, build_classifier, check_classifier
from imgrec.registry import Spec
from tests.models.small_models import make_facts

TINY_RESNET: dict[str, object] = {
    "name": "resnet18",
    "layers": [1, 1, 1, 1],
    "channels": [16, 32, 64, 128],
    "stem_width": 16,
}

TIMM = ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "tf_efficientnet_lite0", "convnext_atto"]
TORCHVISION = ["resnet18", "squeezenet1_1", "shufflenet_v2_x0_5", "mobilenet_v3_small", "mnasnet0_5"]
LARGE_TORCHVISION = [
    "mobilenet_v2",
    "alexnet",
    "vgg11_bn",
    "densenet121",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
]
LARGE_TORCHVISION += ["swin_t", "vit_b_32", "resnext50_32x4d", "wide_resnet50_2"]


def check_gradients(spec: Spec, image_size: int, channels: int = 3) -> None:
    """Check that one step gives every parameter a gradient."""
    torch.manual_seed(0)
    known = make_facts(4, image_size, channels)
    model = build_classifier(spec, "linear", "auto", known).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout | StochasticDepth):  # either can drop a whole layer of a few samples
            module.p = 0.0
        if isinstance(module, nn.BatchNorm2d) and not module.weight.any():  # a residual branch that starts at zero
            nn.init.ones_(module.weight)
    images = torch.randint(0, 256, (4, channels, image_size, image_size), dtype=torch.uint8)
    logits, features, auxiliary = model.forward_all(images)
    assert logits.shape == (4, 4)
    assert features.shape == (4, model.backbone.feature_dim)
    targets = torch.arange(4)
    loss = sum((nn.functional.cross_entropy(extra, targets) for extra in auxiliary), torch.zeros(()))
    (loss + nn.functional.cross_entropy(logits, targets)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("name", TIMM)
def test_every_parameter_of_a_timm_classifier_gets_a_gradient(name: str) -> None:
    check_gradients(name, 64)


@pytest.mark.parametrize("image_size", [8, 16, 28, 32])
def test_small_resnet_accepts_tiny_gray_images(image_size: int) -> None:
    check_gradients(TINY_RESNET, image_size, channels=1)


@pytest.mark.parametrize("name", TORCHVISION)
def test_every_parameter_of_a_torchvision_classifier_gets_a_gradient(name: str) -> None:
    check_gradients(f"torchvision/{name}", 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE_TORCHVISION)
def test_every_parameter_of_a_large_torchvision_classifier_gets_a_gradient(name: str) -> None:
    check_gradients(f"torchvision/{name}", 64)


def test_auxiliary_logits_of_googlenet_exist_in_training_only() -> None:
    check_gradients("torchvision/googlenet", 64)
    model = build_classifier("torchvision/googlenet", "linear", "auto", make_facts(image_size=64))
    images = torch.zeros(2, 3, 64, 64)
    assert [extra.shape for extra in model.forward_all(images)[2]] == [(2, 4), (2, 4)]
    assert model.eval().forward_all(images)[2] == ()
    without = build_classifier(
        {"name": "torchvision/googlenet", "auxiliary": False}, "linear", "auto", make_facts(image_size=64)
    )
    assert without.forward_all(images)[2] == ()


@pytest.mark.slow
def test_auxiliary_classifier_of_inception_gets_a_gradient() -> None:
    check_gradients("torchvision/inception_v3", 299)


@pytest.mark.slow
def test_maxvit_accepts_image_size_divisible_by_partitions() -> None:
    check_gradients("torchvision/maxvit_t", 224)


@pytest.mark.parametrize("name", [*TORCHVISION, "densenet121"])
def test_torchvision_features_are_the_input_of_the_original_last_layer(name: str) -> None:
    torch.manual_seed(0)
    backbone = BACKBONES.build(f"torchvision/{name}", image_size=64).eval()
    seen: list[Tensor] = []
    original = zoo.get_model(name, num_classes=7).eval()
    last = [m for m in original.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    last.register_forward_hook(lambda module, given, result: seen.append(given[0]))
    state = original.state_dict()
    own = backbone.network.state_dict()
    own.update({k: v for k, v in state.items() if k in own})
    backbone.network.load_state_dict(own)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        pooled = backbone(images).pooled
        original(images)
    expected = seen[0].relu().mean((2, 3)) if seen[0].ndim == 4 else seen[0]  # SqueezeNet pools after its last layer
    torch.testing.assert_close(pooled, expected)


def test_timm_features_equal_pooled_features_of_timm() -> None:
    torch.manual_seed(0)
    backbone = BACKBONES.build("mobilenetv3_small_050", image_size=64).eval()
    original: Any = timm.create_model("mobilenetv3_small_050", num_classes=5).eval()
    original.load_state_dict(backbone.network.state_dict(), strict=False)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = original.forward_head(original.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone(images).pooled, expected)


def test_gray_torchvision_network_sums_color_filters() -> None:
    torch.manual_seed(0)
    colour = BACKBONES.build("torchvision/resnet18", image_size=32)
    torch.manual_seed(0)
    grey = BACKBONES.build("torchvision/resnet18", image_size=32, in_channels=1)
    expected = colour.network.get_parameter("conv1.weight").sum(1, keepdim=True)
    torch.testing.assert_close(grey.network.get_parameter("conv1.weight"), expected)
    assert grey.mean == pytest.approx((0.449,))
    assert len(grey.std) == 1


def test_build_keeps_training_mode_and_batch_statistics() -> None:
    backbone = BACKBONES.build(TINY_RESNET, image_size=32)
    assert all(module.training for module in backbone.modules())
    for name, buffer in backbone.named_buffers():
        if name.endswith(("running_mean", "num_batches_tracked")):
            assert not buffer.any()


@pytest.mark.parametrize(
    ("spec", "image_size", "words"),
    [
        ("torchvision/densenet121", 8, ["torchvision/densenet121", "8 x 8", "data.image_size"]),
        ("torchvision/inception_v3", 224, ["224 x 224", "auxiliary: false"]),
        ("torchvision/vit_b_16", 30, ["torchvision/vit_b_16", "30 x 30", "indivisible"]),
        ("vit_tiny_patch16_224", 8, ["vit_tiny_patch16_224", "8 x 8"]),
        ({"name": "resnet18", "global_pool": ""}, 32, ["global_pool=''", "(batch, feature_dim)"]),
    ],
)
def test_invalid_image_size_raises(spec: Spec, image_size: int, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_classifier(spec, "linear", "auto", make_facts(image_size=image_size))
    for word in ["model.backbone", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet81", ['"resnet81"', '"resnet18"']),
        ("torchvision/resnet81", ['"torchvision/resnet18"']),
        ("vit_base_patch16_224.augreg_in21", ['"vit_base_patch16_224.augreg_in21k"']),
        ({"name": "resnet18", "drop_pth_rate": 0.1}, ['"drop_pth_rate"', '"drop_path_rate"', "Accepted"]),
        ({"name": "resnet18", "drop_path_rate": "high"}, ["drop_path_rate='high'"]),
        ({"name": "resnet18", "in_chans": 1}, ['"in_chans"', "data.channels"]),
        ({"name": "resnet18", "pretrained": 3}, ["model.backbone.pretrained", "bool"]),
        ({"name": "resnet18", "pretrained": True, "weights": "x"}, ["got both"]),
        ({"name": "resnet18", "weights": "no/such"}, ["model.backbone.weights", "no/such"]),
        ({"name": "test_resnet", "pretrained": True, "layerz": [1]}, ['"layerz"', '"layers"']),
        ({"name": "torchvision/resnet18", "zero_init_residul": True}, ['"zero_init_residual"']),
        ({"name": "torchvision/resnet18", "auxiliary": False}, ['"auxiliary"']),
        ({"name": "torchvision/regnet_y_400mf", "dropuot": 0.1}, ['"dropuot"']),
        ({"name": "torchvision/googlenet", "transform_input": True}, ["model.normalize"]),
    ],
)
def test_invalid_backbone_spec_raises_in_check(spec: Spec, words: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        check_classifier(spec, "linear", "auto")
    for word in ["model.backbone", *words]:
        assert word in str(caught.value)


def test_check_uses_no_random_numbers() -> None:
    before = torch.get_rng_state()
    check_classifier(dict(TINY_RESNET), "linear", "auto")
    assert torch.equal(before, torch.get_rng_state())


class Mine(Backbone):
    """A backbone by dotted path."""

    def __init__(self, in_channels: int, width: int = 5) -> None:
        network = nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(network, width, (0.5,), (0.5,))


def test_dotted_path_must_be_a_backbone() -> None:
    with pytest.raises(SpecError, match=r"model\.backbone: expected an imgrec\.models\.Backbone"):
        build_classifier(
            {"name": "torch.nn.Linear", "in_features": 2, "out_features": 2}, "linear", "auto", make_facts()
        )


def test_registered_custom_backbone_receives_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "_entries", {})
    BACKBONES.register("mine")(Mine)
    model = build_classifier({"name": "mine", "width": 6}, "linear", "auto", make_facts(4, 8, 1))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert model.mean.tolist() == [0.5]


def test_catalogue_finds_every_listed_name() -> None:
    catalogue = BACKBONES.catalogue
    assert catalogue is not None
    names = list(catalogue.names())
    assert len(names) > 2000
    for name in names[::50]:
        assert catalogue.find(name) is not None, name
    entry = BACKBONES.entry("resnet18")
    assert entry.summary == "Constructs a ResNet-18 model (timm)."
    assert entry.reference
