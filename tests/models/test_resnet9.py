from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import SpecError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.models import BACKBONES, ResNet9, build_classifier, check_classifier
from imgrec.types import DataFacts

TINY: dict[str, Any] = {"name": "resnet9", "channels": [4, 6, 8], "blocks": [0, 1], "block_depth": 1}


def facts(image_size: int = 32, channels: int = 3) -> DataFacts:
    return DataFacts(("cat", "dog", "owl", "yak"), (1, 1, 1, 1), image_size=image_size, channels=channels)


def random_norms(model: nn.Module) -> nn.Module:
    """Norms whose statistics and factors are none of the initial ones."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.data.uniform_(0.5, 1.5, generator=generator)
    return model


def test_the_published_number_of_parameters() -> None:
    model = build_classifier("resnet9", "linear", "auto", DataFacts(tuple("abcdefghij"), (1,) * 10, image_size=32))
    assert sum(p.numel() for p in model.parameters()) == 6_573_120 + 10  # its last layer has no bias


def test_what_it_computes() -> None:
    torch.manual_seed(0)
    spec = {**TINY, "stem_stride": 2, "scale": 0.5}
    network = random_norms(BACKBONES.build(spec, image_size=16).network).eval()
    images = torch.randn(2, 3, 16, 16)
    state = network.state_dict()

    def layer(name: str, x: Tensor, stride: int = 1, pool: bool = False) -> Tensor:
        x = F.conv2d(x, state[f"{name}.0.weight"], stride=stride, padding=1)
        x = F.max_pool2d(x, 2) if pool else x
        mean, var, weight, bias = (
            state[f"{name}.2.{part}"].view(-1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        normalized: Tensor = (x - mean) / (var + 1e-5).sqrt() * weight + bias
        return normalized.clamp_min(0)

    x = layer("stem", images, stride=2)
    x = layer("stages.0.0", x, pool=True)
    x = layer("stages.1.0", x, pool=True)
    x = x + layer("stages.1.1.branch.0", x)
    with torch.no_grad():
        torch.testing.assert_close(network(images), x.flatten(2).max(2).values * 0.5)


@pytest.mark.parametrize(("image_size", "channels", "stem_stride"), [(28, 1, 2), (32, 3, 1), (96, 3, 2)])
def test_every_parameter_gets_a_gradient(image_size: int, channels: int, stem_stride: int) -> None:
    torch.manual_seed(0)
    model = build_classifier({**TINY, "stem_stride": stem_stride}, "linear", "auto", facts(image_size, channels))
    images = torch.randint(256, (8, channels, image_size, image_size), dtype=torch.uint8)
    loss = F.cross_entropy(model(images), torch.arange(8) % 4)
    for gradient in torch.autograd.grad(loss, list(model.parameters())):
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_its_folder_loads_again(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(0)
    spec = {**TINY, "activation": activation}
    model = build_classifier(spec, "linear", "auto", facts())
    random_norms(model).eval()
    folder = save_model_folder(
        tmp_path / "model", model, {"backbone": spec, "head": "linear", "normalize": "auto"}, facts()
    )
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    again, known = load_model_folder(folder)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert known == facts()
    started = BACKBONES.build({**spec, "weights": str(folder)}, image_size=32).network
    assert isinstance(started, ResNet9)
    for name, value in model.backbone.network.state_dict().items():
        assert torch.equal(started.state_dict()[name], value)
    with pytest.raises(SpecError, match='holds the weights of "resnet9", not of "resnet18"'):
        check_classifier({"name": "resnet18", "weights": str(folder)}, "linear", "auto")
    with pytest.raises(SpecError, match="do not fit the network; of another shape: stem"):
        BACKBONES.build({**spec, "channels": [5, 6, 8], "weights": str(folder)}, image_size=32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": [32, 64]}, "`blocks` must be 1 numbers of residual blocks"),
        ({"channels": [32]}, "`channels` are the widths of the stem and of one stage at least"),
        ({"blocks": [1, -1, 0]}, "`blocks` must be 3"),
        ({"block_depth": 0}, "`block_depth` must be 1 or more"),
        ({"scale": 0.0}, "`scale` must be above 0"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"activation": "rellu"}, "activation"),
    ],
)
def test_a_wrong_argument_is_refused_before_the_data_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_classifier({"name": "resnet9", **arguments}, "linear", "auto")
    assert "model.backbone" in str(caught.value)


def test_images_that_are_too_small_are_refused() -> None:
    with pytest.raises(SpecError, match="does not accept images of 4 x 4 pixels"):
        build_classifier("resnet9", "linear", "auto", facts(4))
