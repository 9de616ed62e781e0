"""What a scope freezes, the stages of a network as it says them itself, and batch norm in a frozen part."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgrec.errors import UserError
from imgrec.models import build_classifier
from imgrec.models.freezing import frozen_names, held_norms, named_stages, norm_policy, set_frozen, stages_of
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
def test_the_stages_are_those_of_the_network_and_hold_each_parameter_once(backbone: Any, expected: list[str]) -> None:
    model = classifier(backbone)
    frozen = frozen_names(model, "backbone")
    stages = stages_of(model, frozen)
    assert [title for title, _ in stages] == expected
    assert sorted(name for _, names in stages for name in names) == sorted(frozen)


def test_stages_leave_out_what_is_not_asked_for() -> None:
    model = classifier(RESNET)
    assert [title for title, _ in stages_of(model, frozen_names(model, ["layer2", "layer4"]))] == ["layer2", "layer4"]


def test_named_stages_take_what_is_left_in_their_order() -> None:
    model = classifier(RESNET)
    frozen = frozen_names(model, "backbone")
    first, second, rest = named_stages(model, frozen, ["*.conv1", ["layer1", "layer2"]], "stages")
    assert all(name.endswith("conv1.weight") for name in first)
    assert {name.split(".")[2] for name in second} == {"layer1", "layer2"}
    assert "backbone.network.layer1.0.conv1.weight" not in second
    assert sorted([*first, *second, *rest]) == sorted(frozen)


def test_what_has_no_gradient_already_is_not_counted() -> None:
    model = classifier(RESNET)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layer4" in name)
    assert all("layer4" in name for name in frozen_names(model, "*.weight"))
    with pytest.raises(UserError, match="backbone freezes every parameter"):
        frozen_names(model, "backbone")


def test_a_norm_is_held_where_all_of_it_is_frozen() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)))
    plain = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False))
    assert held_norms(model, {"1.weight", "1.bias", "2.1.weight"}) == [model[1]]
    assert held_norms(plain, {"0.weight"}) == []
    assert held_norms(plain, {"0.weight", "0.bias"}) == [plain[1]]


def test_only_what_may_train_is_let_go() -> None:
    model = nn.Linear(2, 2)
    model.weight.requires_grad_(False)  # by design, as LoRA's
    model.bias.grad = torch.ones(2)
    set_frozen(model, {"bias"}, {"bias"})
    assert [parameter.grad for parameter in model.parameters()] == [None, None]
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, False]
    set_frozen(model, {"bias"}, ())
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True]


def test_a_policy_is_one_of_three() -> None:
    assert norm_policy("trained", "here") == "trained"
    with pytest.raises(UserError, match=r'here is one of frozen, statistics, trained, got "train"\. Did you mean'):
        norm_policy("train", "here")
