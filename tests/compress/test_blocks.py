from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imgrec.compress import drop_blocks, rebuild, residual_blocks, surgery_of
from imgrec.errors import UserError
from imgrec.models import Classifier, build_classifier
from imgrec.registry import Spec
from imgrec.types import DataFacts

FACTS = DataFacts(("cat", "dog", "cow"), (1, 1, 1), image_size=32)
NET = "backbone.network."


def built(spec: Spec) -> Classifier:
    torch.manual_seed(0)
    model = build_classifier(spec, "linear", "half", FACTS).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)  # some networks begin with blocks that do nothing
    return model


TINY = {"name": "resnet18", "layers": [3, 2, 1, 1], "channels": [8, 8, 8, 8], "stem_type": "deep", "stem_width": 4}
BLOCKS: list[tuple[Spec, list[str]]] = [
    (TINY, ["layer1.0", "layer1.1", "layer1.2", "layer2.1"]),
    ({"name": "resnet9", "channels": [4, 8, 8, 8], "blocks": [1, 0, 2]}, ["stages.0.1", "stages.2.1", "stages.2.2"]),
    ({"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 24, "patch_size": 8}, ["blocks.0", "blocks.1"]),
    (
        {"name": "convnext_atto", "depths": [1, 1, 2, 1], "dims": [8, 8, 8, 8]},
        [f"stages.{i}.blocks.{j}" for i, j in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))],
    ),
    (
        "mobilenetv3_small_050",
        ["blocks.1.1", "blocks.2.1", "blocks.2.2", "blocks.3.0", "blocks.3.1", "blocks.4.1", "blocks.4.2"],
    ),
    ("torchvision/mobilenet_v3_small", [f"features.{i}" for i in (3, 5, 6, 8, 10, 11)]),
    ({"name": "densenet121", "block_config": [2, 2], "growth_rate": 8}, []),
]


@pytest.mark.parametrize(
    ("spec", "expected"), BLOCKS, ids=lambda value: value["name"] if isinstance(value, dict) else ""
)
def test_residual_blocks_are_detected_by_behavior(spec: Spec, expected: list[str]) -> None:
    model = built(spec)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert residual_blocks(model, torch.rand(2, 3, 32, 32)) == [f"{NET}{name}" for name in expected]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_least_important_block_is_removed_first() -> None:
    """Compare with networks in which each block is disabled separately."""
    images, targets = torch.rand(16, 3, 32, 32), torch.arange(16) % 3
    names = [f"{NET}{name}" for name in ("layer1.0", "layer1.1", "layer1.2", "layer2.1")]
    logits: dict[str, torch.Tensor] = {}
    turned: dict[str, float] = {}
    dense = built(TINY)
    with torch.no_grad():
        whole = dense(images)
        for name in names:
            model = built(TINY)
            block: Any = model.get_submodule(name)
            block.forward = lambda given: given
            logits[name] = model(images)

            def look(_: nn.Module, given: Any, gives: torch.Tensor, name: str = name) -> None:
                a, b = given[0].flatten(1), gives.flatten(1)
                turned[name] = 1 - float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean())

            hook = dense.get_submodule(name).register_forward_hook(look)
            dense(images)
            hook.remove()
    p = whole.softmax(1)
    worth: dict[str, Callable[[str], float]] = {
        "influence": lambda name: turned[name],
        "divergence": lambda name: float((p * (p.log() - logits[name].log_softmax(1))).sum(1).mean()),
        "loss": lambda name: float(F.cross_entropy(logits[name], targets)),
    }
    for criterion, of in worth.items():
        model = built(TINY)
        batches = (lambda: [(images[:10], targets[:10]), (images[10:], targets[10:])]) if criterion == "loss" else None
        report = drop_blocks(model, images, {"macs": 0.99}, batches, importance=criterion)  # type: ignore[arg-type]
        (name,) = report.removed
        assert name == min(names, key=of)
        assert report.removed[name] == pytest.approx(of(name), rel=1e-4, abs=1e-6)
        with torch.no_grad():
            torch.testing.assert_close(model(images), logits[name])


@pytest.mark.parametrize("spec", [spec for spec, expected in BLOCKS if expected][:5], ids=lambda spec: str(spec)[:30])
def test_the_record_rebuilds_the_shorter_network(spec: Spec) -> None:
    model = built(spec)
    images = torch.rand(2, 3, 32, 32)
    report = drop_blocks(model, images, {"macs": 0.8})
    assert report.macs[1] <= 0.8 * report.macs[0]
    assert report.parameters[1] < report.parameters[0]
    again = rebuild(built(spec), json.loads(json.dumps(surgery_of(model)))).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(images), model(images))
    model.train()(torch.rand(4, 3, 32, 32)).sum().backward()


def test_blocks_are_removed_until_the_target_and_further_later() -> None:
    model, images = built(TINY), torch.rand(2, 3, 32, 32)
    first = drop_blocks(model, images, {"parameters": 0.9})
    dense = first.parameters[0]
    second = drop_blocks(model, images, {"parameters": 0.75}, dense=dense)
    assert second.parameters[1] <= 0.75 * dense
    assert surgery_of(model) == [{"step": "blocks", "removed": [*first.removed, *second.removed]}]
    assert drop_blocks(model, images, {"parameters": 0.8}, dense=dense).step is None


def test_invalid_requests_are_refused_without_changes() -> None:
    model, images = built(TINY), torch.rand(2, 3, 32, 32)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=r"0\.\d+ remain without all of its 4 blocks"):
        drop_blocks(model, images, {"macs": 0.05})
    with pytest.raises(UserError, match=r'"influnce"\. Did you mean "influence"'):
        drop_blocks(model, images, {"macs": 0.5}, importance="influnce")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="requires batches"):
        drop_blocks(model, images, {"macs": 0.5}, importance="loss")
    with pytest.raises(UserError, match="got none"):
        drop_blocks(model, images, {"macs": 0.5}, lambda: [])
    with pytest.raises(UserError, match="no residual block"):
        drop_blocks(built(BLOCKS[-1][0]), images, {"macs": 0.5})
    assert surgery_of(model) == []
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
