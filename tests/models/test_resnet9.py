from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.errors import SpecError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.models import BACKBONES, ResNet9, build_classifier, check_classifier
from imgrec.types import DataFacts
from tests.models.small_models import make_facts, randomize_batch_norms

TINY: dict[str, Any] = {"name": "resnet9", "channels": [4, 6, 8], "blocks": [0, 1], "block_depth": 1}


def test_published_number_of_parameters() -> None:
    model = build_classifier("resnet9", "linear", "auto", DataFacts(tuple("abcdefghij"), (1,) * 10, image_size=32))
    assert sum(p.numel() for p in model.parameters()) == 6_573_120 + 10  # its last layer has no bias


def test_forward_equals_independent_computation() -> None:
    torch.manual_seed(0)
    spec = {**TINY, "stem_stride": 2, "scale": 0.5}
    network = randomize_batch_norms(BACKBONES.build(spec, image_size=16).network).eval()
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
    model = build_classifier(
        {**TINY, "stem_stride": stem_stride}, "linear", "auto", make_facts(4, image_size, channels)
    )
    images = torch.randint(256, (8, channels, image_size, image_size), dtype=torch.uint8)
    loss = F.cross_entropy(model(images), torch.arange(8) % 4)
    for gradient in torch.autograd.grad(loss, list(model.parameters())):
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_model_folder_round_trip(tmp_path: Path, activation: str) -> None:
    torch.manual_seed(0)
    spec = {**TINY, "activation": activation}
    model = build_classifier(spec, "linear", "auto", make_facts())
    randomize_batch_norms(model).eval()
    folder = save_model_folder(
        tmp_path / "model", model, {"backbone": spec, "head": "linear", "normalize": "auto"}, make_facts()
    )
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    again, known = load_model_folder(folder)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert known == make_facts()
    started = BACKBONES.build({**spec, "weights": str(folder)}, image_size=32).network
    assert isinstance(started, ResNet9)
    for name, value in model.backbone.network.state_dict().items():
        assert torch.equal(started.state_dict()[name], value)
    with pytest.raises(SpecError, match='expected weights of "resnet18", got weights of "resnet9"'):
        check_classifier({"name": "resnet18", "weights": str(folder)}, "linear", "auto")
    with pytest.raises(SpecError, match=r"do not fit the network\. Of another shape: stem"):
        BACKBONES.build({**spec, "channels": [5, 6, 8], "weights": str(folder)}, image_size=32)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": [32, 64]}, "blocks: expected 1 numbers of residual blocks"),
        ({"channels": [32]}, "channels: expected the widths of the stem and of at least one stage"),
        ({"blocks": [1, -1, 0]}, "blocks: expected .*int >= 0.*got"),
        ({"block_depth": 0}, "block_depth: expected int > 0, got 0"),
        ({"scale": 0.0}, "scale: expected float > 0, got 0"),
        ({"stem_stride": 3}, "stem_stride"),
        ({"activation": "rellu"}, "activation"),
    ],
)
def test_invalid_argument_raises_in_check(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        check_classifier({"name": "resnet9", **arguments}, "linear", "auto")
    assert "model.backbone" in str(caught.value)


def test_too_small_images_raise() -> None:
    with pytest.raises(SpecError, match="does not accept images of 4 x 4 pixels"):
        build_classifier("resnet9", "linear", "auto", make_facts(image_size=4))
