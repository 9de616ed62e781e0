from __future__ import annotations

import math

import pytest
import torch

from imgrec.errors import SpecError
from imgrec.models import HEADS, CosineHead


@pytest.mark.parametrize("name", HEADS.names())
def test_every_head_builds_with_defaults_and_learns(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS.build(name, feature_dim=6, num_classes=3, class_names=("a", "b", "c"))
    features = torch.randn(5, 6, requires_grad=True)
    logits = head(features)
    assert logits.shape == (5, 3)
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1])).backward()  # type: ignore[no-untyped-call]
    for tensor in (features, *head.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()
    entry = HEADS.entry(name)
    assert entry.summary
    assert entry.reference


def test_cosine_head_formula() -> None:
    head = CosineHead(2, 2, scale=10.0)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    angle = math.radians(30)
    logits = head(7 * torch.tensor([[math.cos(angle), math.sin(angle)]]))
    torch.testing.assert_close(logits, torch.tensor([[10 * math.cos(angle), 10 * math.sin(angle)]]))


def test_scale_is_parameter_or_buffer() -> None:
    fixed, learnable = CosineHead(2, 2, scale=8.0), CosineHead(2, 2, learnable=True)
    assert [n for n, _ in fixed.named_parameters()] == ["weight"]
    assert {n for n, _ in learnable.named_parameters()} == {"weight", "log_scale"}
    learnable.load_state_dict(fixed.state_dict())
    assert learnable.log_scale.exp().item() == pytest.approx(8.0)


def test_dropout_in_training_only() -> None:
    head = HEADS.build({"name": "linear", "dropout": 0.5}, feature_dim=64, num_classes=2)
    features = torch.ones(1, 64)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


@pytest.mark.parametrize(
    ("spec", "word"),
    [({"name": "linear", "dropout": 1.0}, "dropout"), ({"name": "cosine", "scale": 0.0}, "scale")],
)
def test_argument_out_of_range_raises(spec: dict[str, object], word: str) -> None:
    with pytest.raises(SpecError, match=rf"model\.head\.{word}: expected float"):
        HEADS.build(spec, "model.head", feature_dim=4, num_classes=2)
