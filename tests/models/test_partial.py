"""Partial loading of weights, and resampling of tensors to other image sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models import build_classifier
from imgrec.models.pretrained.partial import load_partially
from imgrec.models.pretrained.resampling import resample_to
from imgrec.types import DataFacts

VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 0}


def vit(**arguments: Any) -> nn.Module:
    network: nn.Module = timm.create_model("vit_tiny_patch16_224", **VIT | arguments)
    return network


def linear_network(*sizes: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(size, size) for size in sizes))


# ------------------------------------------------------------------ matching tensors


def test_matching_tensors_are_loaded_and_others_reported() -> None:
    torch.manual_seed(0)
    target, source = linear_network(2, 3, 4, 5), linear_network(2, 3, 5, 5)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {**source.state_dict(), "9.weight": torch.zeros(1)}
    report = load_partially(target, state, "there", lambda name: name[0] != "0", lambda name: name[0] == "3")
    assert set(report.taken) == {"1.weight", "1.bias"}
    assert report.unlike == {"2.weight": "(5, 5), here (4, 4)", "2.bias": "(5,), here (4,)"}
    assert report.other_classes == ("3.weight", "3.bias")
    assert report.left_out == ("0.weight", "0.bias")
    assert report.unknown == ("9.weight",)
    assert set(report.fresh) == set(before) - {"1.weight", "1.bias"}
    assert (report.parameters, report.of) == (12, 6 + 12 + 20 + 30)
    for name, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[name] if name[0] == "1" else before[name])
    assert str(report).splitlines()[0] == "2 of 8 tensors from there, 12 of 68 parameters"
    assert report.to_dict()["unknown"] == ["9.weight"]


def test_type_of_network_is_kept() -> None:
    target = nn.Linear(2, 2)
    load_partially(target, {"weight": torch.ones(2, 2, dtype=torch.float16)}, "there")
    assert target.weight.dtype == torch.float32
    assert target.weight.sum() == 4


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.weight": torch.ones(7, 7)}, r"no parameter matches this network. The shape of 0.weight is \(7, 7\), here"),
        (
            {"x.0.weight": torch.ones(2, 2)},
            r"Its tensors are x.0.weight, and the network has 0.weight.*`rename`",
        ),
        ({"1.weight": torch.ones(3, 3)}, "It contains 1 tensors, all of them excluded"),
    ],
)
def test_load_without_match_raises(state: dict[str, Tensor], message: str) -> None:
    target = linear_network(2, 3)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(UserError, match=message):
        load_partially(target, state, "there", lambda name: name[0] == "0")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())


# ------------------------------------------------------------------ resampling


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ({"img_size": 224}, {"img_size": 96}),
        ({"img_size": 64, "reg_tokens": 4}, {"img_size": 96, "reg_tokens": 4}),
        ({"img_size": 64, "patch_size": 16}, {"img_size": 64, "patch_size": 8}),
        ({"img_size": 64, "in_chans": 3}, {"img_size": 64, "in_chans": 1}),
        ({"img_size": 64, "in_chans": 3}, {"img_size": 64, "in_chans": 5}),
        ({"img_size": 64, "class_token": False, "global_pool": "avg"},) * 2,
    ],
    ids=["smaller", "registers", "patches", "gray", "five channels", "no class token"],
)
def test_resampling_equals_timm(source: dict[str, Any], target: dict[str, Any], tmp_path: Path) -> None:
    """Compare with the weights that timm loads and resamples."""
    file = f"{tmp_path}/model.safetensors"
    torch.manual_seed(1)
    pretrained = vit(**source)
    save_file(pretrained.state_dict(), file)
    overlay = {"file": file, "num_classes": 0, "custom_load": False}
    by_timm = vit(**target, pretrained=True, pretrained_cfg_overlay=overlay)
    torch.manual_seed(2)
    model = vit(**target)
    report = load_partially(model, pretrained.state_dict(), "there")
    assert not report.unlike
    assert bool(report.resampled) == (source != target)
    for name, value in by_timm.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_relative_position_tables_are_interpolated() -> None:
    arguments: dict[str, Any] = {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2), "num_classes": 0}
    small = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, **arguments)
    large = timm.create_model("swin_tiny_patch4_window7_224", img_size=96, window_size=12, **arguments)
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    with torch.no_grad():
        small.get_parameter(name).copy_(torch.ones(13 * 13, 1))
    report = load_partially(large, small.state_dict(), "there")
    assert report.resampled[name] == "(169, 1), here (529, 1)"
    torch.testing.assert_close(large.get_parameter(name), torch.ones(529, 1))


def test_gray_images_equal_three_equal_channels() -> None:
    facts = DataFacts(("a", "b"), (1, 1), image_size=32, channels=3)
    spec = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    color = build_classifier(spec, "linear", "half", facts).eval()
    gray = build_classifier(spec, "linear", "half", DataFacts(("a", "b"), (1, 1), image_size=32, channels=1)).eval()
    state = {name: value for name, value in color.state_dict().items() if name not in ("mean", "std")}
    assert list(load_partially(gray, state, "there").resampled) == ["backbone.network.conv1.weight"]
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(gray(images), color(images.expand(-1, 3, -1, -1)))


def test_other_width_is_not_resampled() -> None:
    target, source = vit(img_size=64), vit(img_size=96, embed_dim=64)
    assert resample_to(target, "pos_embed", source.state_dict()["pos_embed"]) is None
    assert resample_to(target, "blocks.0.attn.qkv.weight", source.state_dict()["blocks.0.attn.qkv.weight"]) is None
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    assert resample_to(cnn, "0.weight", torch.ones(4, 3, 5, 5)) is None
    assert resample_to(cnn, "1.weight", torch.ones(4, 2, 3, 3)) is None
