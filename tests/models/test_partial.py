"""Weights that fit in part, and tensors made for other images."""

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
from imgrec.models.pretrained.partial import take_over
from imgrec.models.pretrained.resampling import resampled
from imgrec.types import DataFacts

VIT = {"depth": 2, "embed_dim": 32, "num_heads": 2, "num_classes": 0}


def vit(**arguments: Any) -> nn.Module:
    network: nn.Module = timm.create_model("vit_tiny_patch16_224", **VIT | arguments)
    return network


def names(*sizes: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(size, size) for size in sizes))


# ------------------------------------------------------------------ what fits


def test_what_fits_is_taken_over_and_the_rest_is_said() -> None:
    torch.manual_seed(0)
    ours, theirs = names(2, 3, 4, 5), names(2, 3, 5, 5)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    state = {**theirs.state_dict(), "9.weight": torch.zeros(1)}
    taken = take_over(ours, state, "there", lambda name: name[0] != "0", lambda name: name[0] == "3")
    assert set(taken.taken) == {"1.weight", "1.bias"}
    assert taken.unlike == {"2.weight": "(5, 5), here (4, 4)", "2.bias": "(5,), here (4,)"}
    assert taken.other_classes == ("3.weight", "3.bias")
    assert taken.left_out == ("0.weight", "0.bias")
    assert taken.unknown == ("9.weight",)
    assert set(taken.fresh) == set(before) - {"1.weight", "1.bias"}
    assert (taken.parameters, taken.of) == (12, 6 + 12 + 20 + 30)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name] if name[0] == "1" else before[name])
    assert str(taken).splitlines()[0] == "2 of 8 tensors from there, 12 of 68 parameters"
    assert taken.to_dict()["unknown"] == ["9.weight"]


def test_a_tensor_keeps_the_type_that_the_network_has() -> None:
    ours = nn.Linear(2, 2)
    take_over(ours, {"weight": torch.ones(2, 2, dtype=torch.float16)}, "there")
    assert ours.weight.dtype == torch.float32
    assert ours.weight.sum() == 4


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"0.weight": torch.ones(7, 7)}, r"not one parameter of it can be taken over; 0.weight is \(7, 7\), here"),
        (
            {"x.0.weight": torch.ones(2, 2)},
            r"its tensors are called x.0.weight, this .* 0.weight.*`rename` puts",
        ),
        ({"1.weight": torch.ones(3, 3)}, "it holds 1 tensors, all of them left out"),
    ],
)
def test_a_start_from_nothing_is_refused(state: dict[str, Tensor], message: str) -> None:
    ours = names(2, 3)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    with pytest.raises(UserError, match=message):
        take_over(ours, state, "there", lambda name: name[0] == "0")
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())


# ------------------------------------------------------------------ other images


@pytest.mark.parametrize(
    ("theirs", "ours"),
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
def test_it_is_what_timm_makes_of_the_same_weights(
    theirs: dict[str, Any], ours: dict[str, Any], tmp_path: Path
) -> None:
    """Against timm's own loading, which resamples by a path of its own."""
    file = f"{tmp_path}/model.safetensors"
    torch.manual_seed(1)
    given = vit(**theirs)
    save_file(given.state_dict(), file)
    overlay = {"file": file, "num_classes": 0, "custom_load": False}
    by_timm = vit(**ours, pretrained=True, pretrained_cfg_overlay=overlay)
    torch.manual_seed(2)
    made = vit(**ours)
    taken = take_over(made, given.state_dict(), "there")
    assert not taken.unlike
    assert bool(taken.resampled) == (theirs != ours)
    for name, value in by_timm.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], value)


def test_tables_of_relative_positions_are_interpolated() -> None:
    arguments: dict[str, Any] = {"depths": (1, 1), "embed_dim": 16, "num_heads": (1, 2), "num_classes": 0}
    small = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, window_size=7, **arguments)
    large = timm.create_model("swin_tiny_patch4_window7_224", img_size=96, window_size=12, **arguments)
    name = "layers.0.blocks.0.attn.relative_position_bias_table"
    with torch.no_grad():
        small.get_parameter(name).copy_(torch.ones(13 * 13, 1))
    taken = take_over(large, small.state_dict(), "there")
    assert taken.resampled[name] == "(169, 1), here (529, 1)"
    torch.testing.assert_close(large.get_parameter(name), torch.ones(529, 1))


def test_gray_images_give_what_three_equal_channels_gave() -> None:
    facts = DataFacts(("a", "b"), (1, 1), image_size=32, channels=3)
    spec = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
    color = build_classifier(spec, "linear", "half", facts).eval()
    gray = build_classifier(spec, "linear", "half", DataFacts(("a", "b"), (1, 1), image_size=32, channels=1)).eval()
    state = {name: value for name, value in color.state_dict().items() if name not in ("mean", "std")}
    assert list(take_over(gray, state, "there").resampled) == ["backbone.network.conv1.weight"]
    images = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(gray(images), color(images.expand(-1, 3, -1, -1)))


def test_another_width_is_not_a_question_of_the_images() -> None:
    ours, theirs = vit(img_size=64), vit(img_size=96, embed_dim=64)
    assert resampled(ours, "pos_embed", theirs.state_dict()["pos_embed"]) is None
    assert resampled(ours, "blocks.0.attn.qkv.weight", theirs.state_dict()["blocks.0.attn.qkv.weight"]) is None
    cnn = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    assert resampled(cnn, "0.weight", torch.ones(4, 3, 5, 5)) is None
    assert resampled(cnn, "1.weight", torch.ones(4, 2, 3, 3)) is None
