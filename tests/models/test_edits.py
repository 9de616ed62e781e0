"""Check, application and order of edits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgrec.errors import SpecError
from imgrec.models import BACKBONES, Backbone, ClassifierSpecs, Edit, build_classifier
from imgrec.models.edits.base import apply_edits, check_edits
from imgrec.types import DataFacts
from tests.models.small_models import RESNET

FACTS = DataFacts(("a", "b"), (1, 1), 32, 3)


class Wider(Edit):
    """An edit that changes the feature dimension."""

    def __call__(self, network: nn.Module) -> nn.Module:
        return nn.Sequential(network, nn.Linear(8, 9))


def not_an_edit() -> nn.Module:
    return nn.ReLU()


def backbone() -> Backbone:
    torch.manual_seed(0)
    return BACKBONES.build(RESNET, in_channels=3, image_size=32)


def apply(edits: Any) -> Backbone:
    changed = backbone()
    apply_edits(changed, edits, FACTS.for_registry(), "model.edits")
    return changed


def test_edits_apply_in_order_and_keep_weights() -> None:
    plain, changed = backbone(), apply(["se", {"name": "swap_norm", "to": "group"}, "blur_pool"])
    end: Any = changed.network.get_submodule("layer1.0.bn2")
    assert isinstance(end.layer, nn.GroupNorm)
    original = dict(plain.named_parameters())
    kept = {name.replace(".layer.", "."): value for name, value in changed.named_parameters() if ".se." not in name}
    assert kept.keys() == original.keys()
    assert all(torch.equal(value, original[name]) for name, value in kept.items())


def test_edits_are_reproducible() -> None:
    edits: list[Any] = ["cbam", {"name": "separable", "scope": "layer4"}, "weight_standardization", "stochastic_depth"]
    one, other = apply(edits).state_dict(), apply(edits).state_dict()
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}


def test_error_contains_index_of_edit() -> None:
    cases: list[tuple[Any, str]] = [
        (["se", "sse"], r'model\.edits\[1\]: no edit is called "sse"\. Did you mean "se"'),
        ({"name": "se", "reducton": 4}, r'model\.edits: the edit "se" has no argument "reducton"\. Did you mean'),
        ([{"name": "se", "reduction": 0.5}], r"model\.edits\[0\]\.reduction: expected float >= 1, got 0\.5"),
    ]
    for edits, message in cases:
        with pytest.raises(SpecError, match=message):
            check_edits(edits, "model.edits", ("in_channels", "image_size"))
    made: list[tuple[Any, str]] = [
        (
            ["eca", {"name": "se", "scope": "layr1"}],
            r'model\.edits\[1\]: the pattern "layr1" matches no layer\. Did you',
        ),
        ({"name": "se", "scope": "conv1"}, r'model\.edits: the pattern "conv1" matches no end of a residual branch'),
        (f"{__name__}.Wider", r"after this edit \(.*Wider\): expected 8 features as before, got 9"),
        ({"name": "swap_norm", "to": "instance"}, r"after this edit \(swap_norm\) does not accept images of 32 x 32"),
    ]
    for edits, message in made:
        with pytest.raises(SpecError, match=message):
            apply(edits)


def test_other_objects_raise() -> None:
    with pytest.raises(SpecError, match=r"expected an imgrec\.models\.Edit, got ReLU"):
        apply(f"{__name__}.not_an_edit")


def test_unmatched_pattern_raises_in_check() -> None:
    with pytest.raises(SpecError, match=r'model\.edits: the pattern "stage1" matches no layer'):
        ClassifierSpecs(RESNET, edits={"name": "blur_pool", "scope": "stage1"}).check()
    ClassifierSpecs(RESNET, edits={"name": "blur_pool", "scope": "layer2"}).check()


def test_edits_with_neck_and_head() -> None:
    classifier = build_classifier(
        RESNET, "cosine", "half", FACTS, edits=["se", "blur_pool"], neck={"name": "fpn", "channels": 8}
    )
    logits = classifier(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
