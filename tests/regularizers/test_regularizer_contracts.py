"""Contract tests of all registered regularizers."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from imgrec.models.utils.forward import has_dropout
from imgrec.regularizers import REGULARIZERS, build_regularizers, check_regularizers
from imgrec.types import PART_FACTS, StepOutput, sample_keys

ENTRIES = REGULARIZERS.names()
FACTS: dict[str, Any] = {
    "num_classes": 4,
    "class_names": ("cat", "dog", "owl", "yak"),
    "class_counts": (2, 2, 2, 2),
    "image_size": 8,
    "in_channels": 3,
    "feature_dim": 6,
}
FEATURES = ("center", "decorrelation", "koleo", "supervised_contrastive", "triplet")
ABOUT = {"bn_scale": ("backbone.1.weight",), **dict.fromkeys(FEATURES, ("backbone.0.weight",))}
"""Parts of the model that a regularizer depends on, if not on every weight."""
DRAWS = {"jacobian", "jensen_shannon", "pgd", "r_drop", "virtual_adversarial", "fgsm", "input_gradient"}
"""Regularizers with an additional forward pass, which draws random numbers."""
STEPS = {"virtual_adversarial": 60}
"""Regularizers whose reference, the prediction on the clean image, depends on the weights."""
VARIANTS: list[dict[str, Any]] = [
    {"name": "triplet", "mining": "semi_hard", "margin": "soft"},
    {"name": "supervised_contrastive", "projection": 3},
    {"name": "decorrelation", "standardize": True},
    {"name": "orthogonality", "kind": "srip"},
    {"name": "fgsm", "random_start": True, "loss": {"name": "cross_entropy", "label_smoothing": 0.1}},
    {"name": "jensen_shannon", "chains": 0, "views": 1, "transforms": {"name": "brightness", "amount": 0.9}},
    {"name": "l2", "scope": ["backbone.0", "head"]},
]
SPECS: list[dict[str, Any]] = [*({"name": name} for name in ENTRIES), *VARIANTS]


class Small(nn.Module):
    """A backbone of two layers, and a head with dropout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(6, 4)
        nn.init.normal_(self.head.weight)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.backbone(images).flatten(1)))
        return logits

    def step(self, targets: Tensor | None = None) -> StepOutput:
        images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        features = self.backbone(images).flatten(1)
        labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]) if targets is None else targets
        logits = self.head(self.dropout(features))
        return StepOutput(images, labels, logits, features, 0, keys=sample_keys(map(str, range(8))))


def built(spec: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    made = build_regularizers({**spec, "weight": 1.0}, "r", **FACTS)
    made.check_model(Small())
    return made.regularizers[0]


def value(spec: dict[str, Any], seed: int = 0, **arguments: Any) -> Tensor:
    """Return the penalty on a small network at a position of training."""
    model, regularizer = Small(), built(spec)
    torch.manual_seed(seed)
    penalty: Tensor = regularizer(model.step(**arguments), model)
    return penalty


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_penalized_parts_have_finite_gradient(spec: dict[str, Any]) -> None:
    model, regularizer = Small(), built(spec)
    penalty = regularizer(model.step(), model)
    assert penalty.shape == ()
    assert not any(p.grad is not None for p in model.parameters())
    penalty.backward()
    weights = [model.get_parameter(name) for name in ABOUT.get(spec["name"], ("backbone.0.weight", "head.weight"))]
    for weight in (*weights, *regularizer.parameters()):
        assert weight.grad is not None
        assert torch.isfinite(weight.grad).all()
        assert (weight.grad != 0).any()


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_gradient_mode_is_preserved(spec: dict[str, Any]) -> None:
    model, regularizer = Small(), built(spec)
    torch.manual_seed(0)
    with torch.no_grad():
        penalty = regularizer(model.step(), model)
        assert not torch.is_grad_enabled()
        assert not penalty.requires_grad
    torch.testing.assert_close(penalty, value(spec).detach())


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_network_is_unchanged(spec: dict[str, Any]) -> None:
    model, regularizer = Small(), built(spec)
    model.dropout.eval()
    output = model.step()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    images = output.images.clone()
    regularizer(output, model).backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(output.images, images)
    model.step()  # the next step learns from its batch as ever
    assert not torch.equal(model.state_dict()["backbone.1.running_mean"], before["backbone.1.running_mean"])


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_one_hot_probabilities_are_indices_and_mixtures_are_finite(spec: dict[str, Any]) -> None:
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    one_hot = F.one_hot(labels, 4).float()
    torch.testing.assert_close(value(spec, targets=one_hot), value(spec, targets=labels))
    model, regularizer = Small(), built(spec)
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    penalty = regularizer(model.step(mixed), model)
    penalty.backward()
    assert torch.isfinite(penalty)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_bfloat16_gives_about_the_same(spec: dict[str, Any]) -> None:
    model, regularizer = Small(), built(spec)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = regularizer(model.step(), model)
    assert penalty.dtype == torch.float32
    torch.testing.assert_close(penalty, value(spec), rtol=0.1, atol=5e-3)
    penalty.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_random_numbers_depend_on_position_only(spec: dict[str, Any]) -> None:
    assert torch.equal(value(spec, seed=3), value(spec, seed=3))
    model, regularizer = Small(), built(spec)
    output = model.step()

    def drawn(seed: int) -> float:
        torch.manual_seed(seed)
        return float(regularizer(output, model))

    assert (drawn(4) != drawn(5)) == (spec["name"] in DRAWS)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_twenty_steps_lower_penalty(spec: dict[str, Any]) -> None:
    model, regularizer = Small(), built(spec)
    assert has_dropout(model)

    def penalty() -> Tensor:
        torch.manual_seed(0)
        found: Tensor = regularizer(model.step(), model)
        return found

    before = float(penalty())
    optimizer = torch.optim.Adam([*model.parameters(), *regularizer.parameters()], lr=0.01)
    for _ in range(STEPS.get(spec["name"], 20)):
        optimizer.zero_grad()
        penalty().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(penalty()) < before - 0.02 * abs(before)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_checkpoint_contains_own_state_only(spec: dict[str, Any]) -> None:
    regularizer = built(spec)
    regularizer(Small().step(), Small())
    assert set(regularizer.state_dict()) == {name for name, _ in regularizer.named_parameters()}


@pytest.mark.parametrize("name", ENTRIES)
def test_docstring_has_summary_source_and_example(name: str) -> None:
    entry = REGULARIZERS.entry(name)
    assert entry.summary.endswith(".")
    assert len(entry.summary) < 120
    assert any(year in entry.reference for year in map(str, range(1950, 2100)))
    assert all(argument.type for argument in entry.arguments())
    found = re.search(r"^Example::\n\n((?: +.*\n)+)", entry.doc, re.MULTILINE)
    assert found, f"{name} has no example in YAML"
    specs = yaml.safe_load(found.group(1))["regularizers"]
    check_regularizers(specs, "model.regularizers", PART_FACTS)
    assert build_regularizers(specs, "model.regularizers", **FACTS).names == [name]
