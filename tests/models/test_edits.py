"""Edits are plain data that change a backbone's layers, and keep what was learnt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgrec.errors import SpecError
from imgrec.models import BACKBONES, Backbone, ClassifierSpecs, Edit, build_classifier
from imgrec.models.edits.base import apply_edits, check_edits
from imgrec.types import DataFacts

TINY = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
FACTS = DataFacts(("a", "b"), (1, 1), 32, 3)


class Wider(Edit):
    """An edit of somebody's own, that is wrong."""

    def __call__(self, network: nn.Module) -> nn.Module:
        return nn.Sequential(network, nn.Linear(8, 9))


def not_an_edit() -> nn.Module:
    return nn.ReLU()


def backbone() -> Backbone:
    torch.manual_seed(0)
    return BACKBONES.build(TINY, in_channels=3, image_size=32)


def apply(edits: Any) -> Backbone:
    changed = backbone()
    apply_edits(changed, edits, FACTS.for_registry(), "model.edits")
    return changed


def test_edits_are_made_in_order_and_what_survives_keeps_its_weights() -> None:
    plain, changed = backbone(), apply(["se", {"name": "swap_norm", "to": "group"}, "blur_pool"])
    end: Any = changed.network.get_submodule("layer1.0.bn2")
    assert isinstance(end.layer, nn.GroupNorm)
    theirs = dict(plain.named_parameters())
    kept = {name.replace(".layer.", "."): value for name, value in changed.named_parameters() if ".se." not in name}
    assert kept.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in kept.items())


def test_the_same_edits_give_the_same_layers_again() -> None:
    edits: list[Any] = ["cbam", {"name": "separable", "scope": "layer4"}, "weight_standardization", "stochastic_depth"]
    one, other = apply(edits).state_dict(), apply(edits).state_dict()
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in other.items()}


def test_what_cannot_be_done_says_which_edit_it_was() -> None:
    said: list[tuple[Any, str]] = [
        (["se", "sse"], r'model\.edits\[1\]: no edit is called "sse"\. Did you mean "se"'),
        ({"name": "se", "reducton": 4}, r'model\.edits: the edit "se" has no argument "reducton"\. Did you mean'),
        ([{"name": "se", "reduction": 0.5}], r"model\.edits\[0\]: `reduction` must be at least 1, got 0\.5"),
    ]
    for edits, message in said:
        with pytest.raises(SpecError, match=message):
            check_edits(edits, "model.edits", ("in_channels", "image_size"))
    made: list[tuple[Any, str]] = [
        (
            ["eca", {"name": "se", "scope": "layr1"}],
            r'model\.edits\[1\]: the pattern "layr1" matches no layer\. Did you',
        ),
        ({"name": "se", "scope": "conv1"}, r'model\.edits: the pattern "conv1" matches no end of a residual branch'),
        (f"{__name__}.Wider", r"after this edit \(.*Wider\) gives 9 features, before it gave 8"),
        ({"name": "swap_norm", "to": "instance"}, r"after this edit \(swap_norm\) does not accept images of 32 x 32"),
    ]
    for edits, message in made:
        with pytest.raises(SpecError, match=message):
            apply(edits)


def test_what_is_no_edit_is_refused() -> None:
    with pytest.raises(SpecError, match=r"gives a ReLU, not an imgrec\.models\.Edit"):
        apply(f"{__name__}.not_an_edit")


def test_a_pattern_that_means_nothing_is_refused_before_there_is_data() -> None:
    with pytest.raises(SpecError, match=r'model\.edits: the pattern "stage1" matches no layer'):
        ClassifierSpecs(TINY, edits={"name": "blur_pool", "scope": "stage1"}).check()
    ClassifierSpecs(TINY, edits={"name": "blur_pool", "scope": "layer2"}).check()


def test_a_classifier_is_built_of_edits_neck_and_head_together() -> None:
    classifier = build_classifier(
        TINY, "cosine", "half", FACTS, edits=["se", "blur_pool"], neck={"name": "fpn", "channels": 8}
    )
    logits = classifier(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    assert logits.shape == (2, 2)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())
