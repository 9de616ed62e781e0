from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from timm.optim._param_groups import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from imgrec.errors import UserError
from imgrec.optim import build_optimizer, parameter_groups


class Wrapped(nn.Module):
    """Model with a nested timm network without classifier, and a separate head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.network = network
        self.head = nn.Linear(network.num_features, 10)


def group_settings(
    groups: list[dict[str, Any]], model: nn.Module, rename: Mapping[str, str]
) -> dict[str, tuple[float, float]]:
    """Return learning rate and weight decay of every parameter, by its name in the timm model."""
    names = {id(p): n for n, p in model.named_parameters()}
    found = {}
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            old = next((old for old in rename if name.startswith(old)), "")
            name = rename.get(old, "") + name.removeprefix(old)
            rate = group["lr"] if "lr" in group else group.get("lr_scale", 1.0)
            found[name] = (round(rate, 9), group["weight_decay"])
    return found


@pytest.mark.parametrize("layer_decay", [None, 0.75])
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "vit_tiny_patch16_224",
        "convnext_atto",
        "efficientnet_lite0",
        "mobilenetv3_small_100",
        "xcit_nano_12_p16_224",  # `pos_embed.*` with a wildcard, and a temperature that its attention alone names
    ],
)
def test_groups_equal_timm(name: str, layer_decay: float | None) -> None:
    whole: Any = timm.create_model(name, num_classes=10)
    exempt = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    theirs = (
        param_groups_weight_decay(whole, 0.05, no_weight_decay_list=exempt)
        if layer_decay is None
        else param_groups_layer_decay(whole, 0.05, exempt, layer_decay=layer_decay)
    )
    wrapped = Wrapped(timm.create_model(name, num_classes=0))
    ours = parameter_groups(wrapped, 0.05, lr=1.0, layer_decay=layer_decay)
    classifier = whole.pretrained_cfg["classifier"]
    rename = {"backbone.network.": "", "head.": f"{classifier}."}
    assert group_settings(ours, wrapped, rename) == group_settings(theirs, whole, {})


def test_groups_by_name() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm([4, 6, 6]), nn.Flatten(), nn.Linear(144, 2)
    )
    names = {id(p): n for n, p in model.named_parameters()}

    def members(**options: Any) -> dict[str, list[str]]:
        return {
            f"{g.get('name')} {g['weight_decay']}": [names[id(p)] for p in g["params"]]
            for g in parameter_groups(model, **options)
        }

    norms = ["0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "4.bias"]
    assert members(weight_decay=0.1) == {"decay 0.1": ["0.weight", "4.weight"], "no_decay 0.0": norms}
    assert members(weight_decay=0.1, decay_norm_and_bias=True) == {"None 0.1": list(names.values())}
    assert members(weight_decay=0.0) == {"None 0.0": list(names.values())}
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    assert members(weight_decay=0.1) == {
        "decay 0.1": ["4.weight"],
        "no_decay 0.0": ["2.weight", "2.bias", "4.bias"],
    }


def test_position_embeddings_do_not_decay() -> None:
    model = Wrapped(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    still = next(g for g in parameter_groups(model, 0.1) if g["name"] == "no_decay")["params"]
    network: Any = model.backbone.network
    assert any(p is network.pos_embed for p in still)
    assert any(p is network.cls_token for p in still)


def test_layer_decay_scales_the_learning_rate_of_the_optimizer() -> None:
    model = Wrapped(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    optimizer = build_optimizer({"name": "adamw", "lr": 0.01, "layer_decay": 0.5, "weight_decay": 0.1}, model)
    rates = {g["name"]: g["lr"] for g in optimizer.param_groups}
    assert len(set(rates)) == len(optimizer.param_groups)
    head = next(g for g in optimizer.param_groups if any(p is model.head.weight for p in g["params"]))
    assert head["lr"] == 0.01
    network: Any = model.backbone.network
    stem = next(g for g in optimizer.param_groups if any(p is network.patch_embed.proj.weight for p in g["params"]))
    assert stem["lr"] == pytest.approx(0.01 * 0.5**13)  # twelve blocks and the stem before the head
    assert stem["name"] == "layer_0_decay"


def test_invalid_groups_are_rejected() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"^layer_decay: requires a backbone that defines its layers"):
        parameter_groups(model, lr=0.1, layer_decay=0.5)
    with pytest.raises(UserError, match=r"^the model has no trainable parameter"):
        parameter_groups(model.requires_grad_(False))


def test_every_parameter_is_in_one_group() -> None:
    model = Wrapped(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0))
    for layer_decay in (None, 0.9):
        members = [p for g in parameter_groups(model, 0.1, lr=0.1, layer_decay=layer_decay) for p in g["params"]]
        assert len(members) == len({id(p) for p in members}) == len(list(model.parameters()))
        assert torch.cat([p.detach().flatten() for p in members]).numel() == sum(p.numel() for p in model.parameters())
