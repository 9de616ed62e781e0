from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from imgrec import ClassificationTask
from imgrec.errors import SpecError
from imgrec.models import HEADS, LinearHead, MLPHead, MultiSampleDropoutHead, check_classifier
from imgrec.types import DataFacts, StepOutput


def test_mlp_equals_its_layers() -> None:
    torch.manual_seed(0)
    head = MLPHead(6, 3, hidden=[5, 4], norm="layer", activation="gelu", dropout=0.3).eval()
    x = features = torch.randn(7, 6)
    state = head.state_dict()
    for i, width in enumerate((5, 4)):
        x = F.linear(x, state[f"hidden.{i}.1.weight"], state[f"hidden.{i}.1.bias"])
        x = F.gelu(F.layer_norm(x, (width,), state[f"hidden.{i}.2.weight"], state[f"hidden.{i}.2.bias"]))
    with torch.no_grad():
        torch.testing.assert_close(head(features), F.linear(x, state["linear.weight"], state["linear.bias"]))


def test_default_hidden_width() -> None:
    assert [tuple(p.shape) for p in MLPHead(6, 3).parameters()] == [(6, 6), (6,), (3, 6), (3,)]
    assert [tuple(p.shape) for p in MLPHead(6, 3, hidden=2).parameters()] == [(2, 6), (2,), (3, 2), (3,)]
    assert "hidden.0.1.bias" not in MLPHead(6, 3, norm="batch").state_dict()


def test_mlp_learns_xor() -> None:
    torch.manual_seed(0)
    features = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    targets = torch.tensor([0, 1, 1, 0])
    right = {}
    for name, head in (("mlp", MLPHead(2, 2, hidden=16)), ("linear", LinearHead(2, 2))):
        optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
        for _ in range(150):
            optimizer.zero_grad()
            F.cross_entropy(head(features), targets).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        right[name] = int((head(features).argmax(1) == targets).sum())
    assert right["mlp"] == 4 > right["linear"]


def task(head: Any) -> ClassificationTask:
    backbone = {"name": "cifar_resnet", "depth": 8, "widths": [4, 4, 8]}
    facts = DataFacts(("a", "b", "c"), (1, 1, 1), 16, 1).to_dict()
    found = ClassificationTask(backbone=backbone, head=head, normalize="half", facts=facts)
    found.configure_model()
    return found


def output(found: ClassificationTask) -> StepOutput:
    images = torch.randint(256, (6, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits, features, _ = found.model.forward_all(images)
    return StepOutput(images, torch.tensor([0, 1, 2, 0, 1, 2]), logits, features, 0)


def test_multi_sample_dropout_averages_losses() -> None:
    found = task({"name": "multi_sample_dropout", "samples": 3, "dropout": 0.4})
    given = output(found)
    torch.manual_seed(5)
    loss = found.compute_loss(given)
    torch.manual_seed(5)
    linear: Any = found.model.head.linear
    logits = torch.stack([linear(F.dropout(given.features, 0.4)) for _ in range(3)])
    expected = torch.stack([F.cross_entropy(each, given.targets) for each in logits]).mean()
    torch.testing.assert_close(loss, expected)
    assert loss > F.cross_entropy(logits.mean(dim=0), given.targets)  # the loss is convex


def test_multi_sample_dropout_is_linear_in_evaluation() -> None:
    found = task({"name": "multi_sample_dropout"}).eval()
    given = output(found)
    head = found.model.head
    assert isinstance(head, MultiSampleDropoutHead)
    assert torch.equal(given.logits, head.linear(given.features))
    assert torch.equal(found.compute_loss(given), F.cross_entropy(given.logits, given.targets))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "mlp", "hidden": []}, "hidden: expected the widths of one or more layers"),
        ({"name": "mlp", "hidden": [4, 0]}, r"hidden: expected int > 0 \| list\[int > 0\]"),
        ({"name": "mlp", "dropout": 1.0}, r"dropout: expected float in \[0, 1\), got 1.0"),
        ({"name": "multi_sample_dropout", "samples": 1}, "samples: expected int >= 2, got 1"),
        ({"name": "multi_sample_dropout", "dropout": 0.0}, r"dropout: expected float in \(0, 1\), got 0.0"),
    ],
)
def test_invalid_head_argument_raises_in_check(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=rf"model\.head.*{message}"):
        check_classifier("cifar_resnet", spec, "auto")
    with pytest.raises(SpecError, match=message):
        HEADS.build(spec, feature_dim=4, num_classes=2)
