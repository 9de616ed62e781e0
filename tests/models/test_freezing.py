"""Selection of frozen parameters, stages of a network, batch normalization in a frozen part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgrec.errors import UserError
from imgrec.models import build_classifier
from imgrec.models.freezing import find_frozen_norms, parse_norm_policy, select_frozen, set_frozen
from imgrec.models.unfreezing_stages import assign_stages, split_stages
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b"), (1, 1), image_size=32)
RESNET: dict[str, Any] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
VIT: dict[str, Any] = {"name": "vit_tiny_patch16_224", "depth": 3, "embed_dim": 16, "num_heads": 2}
CONVNEXT: dict[str, Any] = {"name": "convnext_atto", "depths": [1, 1, 1, 1], "dims": [8, 8, 8, 8]}
CIFAR: dict[str, Any] = {"name": "cifar_resnet", "depth": 8, "widths": [4, 4, 8]}


def classifier(backbone: Any) -> nn.Module:
    return build_classifier(backbone, "linear", "half", FACTS)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (RESNET, ["conv1, bn1", "layer1", "layer2", "layer3", "layer4"]),
        (VIT, ["cls_token, pos_embed, patch_embed", "blocks.0", "blocks.1", "blocks.2, norm"]),
        (CONVNEXT, ["stem", "stages.0", "stages.1", "stages.2", "stages.3, head"]),
        (CIFAR, ["conv1, bn1", "stages.0", "stages.1", "stages.2"]),
        ("torchvision/squeezenet1_1", ["features.0", *(f"features.{n}" for n in (3, 4, 6, 7, 9, 10, 11, 12))]),
    ],
    ids=["resnet", "vit", "convnext", "of imgrec's own", "of torchvision"],
)
def test_stages_partition_the_parameters(backbone: Any, expected: list[str]) -> None:
    model = classifier(backbone)
    frozen = select_frozen(model, "backbone")
    stages = split_stages(model, frozen)
    assert [title for title, _ in stages] == expected
    assert sorted(name for _, names in stages for name in names) == sorted(frozen)


def test_stages_contain_selected_parameters_only() -> None:
    model = classifier(RESNET)
    assert [title for title, _ in split_stages(model, select_frozen(model, ["layer2", "layer4"]))] == [
        "layer2",
        "layer4",
    ]


def test_assign_stages_order() -> None:
    model = classifier(RESNET)
    frozen = select_frozen(model, "backbone")
    first, second, rest = assign_stages(model, frozen, ["*.conv1", ["layer1", "layer2"]], "stages")
    assert all(name.endswith("conv1.weight") for name in first)
    assert {name.split(".")[2] for name in second} == {"layer1", "layer2"}
    assert "backbone.network.layer1.0.conv1.weight" not in second
    assert sorted([*first, *second, *rest]) == sorted(frozen)


def test_parameters_without_gradient_are_not_selected() -> None:
    model = classifier(RESNET)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer4" in name)
    assert all("layer4" in name for name in select_frozen(model, "*.weight"))
    with pytest.raises(UserError, match="backbone freezes every parameter"):
        select_frozen(model, "backbone")


def test_frozen_norms() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False))
    assert find_frozen_norms(model, {"1.weight", "1.bias", "2.1.weight"}) == [model[1]]
    assert find_frozen_norms(plain, {"0.weight"}) == []
    assert find_frozen_norms(plain, {"0.weight", "0.bias"}) == [plain[1]]


def test_set_frozen_keeps_other_parameters() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)  # by design, as in LoRA
    model.bias.grad = torch.ones(2)
    set_frozen(model, {"bias"}, {"bias"})
    assert [parameter.grad for parameter in model.parameters()] == [None, None]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False]
    set_frozen(model, {"bias"}, ())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True]


def test_invalid_norm_policy_raises() -> None:
    assert parse_norm_policy("trained", "here") == "trained"
    with pytest.raises(
        UserError, match=r'here: expected one of frozen, statistics, trained, got "train"\. Did you mean'
    ):
        parse_norm_policy("train", "here")
