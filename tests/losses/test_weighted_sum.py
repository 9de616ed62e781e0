from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from imgrec.errors import SpecError
from imgrec.losses import CrossEntropy, Focal, WeightedSum, build_loss, check_losses, cross_entropy, focal_loss

LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(3))
TARGETS = torch.tensor([0, 1, 2, 1])


class Confidence(nn.Module):
    """Custom loss."""

    def __init__(self, k: float = 1.0) -> None:
        super().__init__()
        self.k = k

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.k * logits.softmax(dim=1).square().sum(dim=1).mean()


def test_one_spec_gives_that_loss() -> None:
    assert isinstance(build_loss("cross_entropy"), CrossEntropy)
    assert isinstance(build_loss({"name": "focal", "gamma": 1.0}), Focal)


def test_a_list_gives_the_weighted_sum_and_its_parts() -> None:
    loss = build_loss(["cross_entropy", {"name": "focal", "gamma": 1.0, "weight": 0.5}, {"name": "focal", "weight": 2}])
    assert isinstance(loss, WeightedSum)
    parts = loss.parts(LOGITS, TARGETS)
    expected = {
        "cross_entropy": cross_entropy(LOGITS, TARGETS),
        "focal": focal_loss(LOGITS, TARGETS, 1.0),
        "focal_2": focal_loss(LOGITS, TARGETS, 2.0),
    }
    assert list(parts) == list(expected)
    torch.testing.assert_close(parts, expected)
    total = expected["cross_entropy"] + 0.5 * expected["focal"] + 2 * expected["focal_2"]
    torch.testing.assert_close(loss(LOGITS, TARGETS), total)
    torch.testing.assert_close(loss.total(parts), total)


def test_facts_reach_every_part() -> None:
    loss = build_loss([{"name": "cross_entropy", "class_weights": "balanced"}], class_counts=(10, 30))
    assert isinstance(loss, WeightedSum)
    assert isinstance(loss.losses[0], CrossEntropy)
    assert loss.losses[0].class_weights is not None
    assert loss.losses[0].class_weights.tolist() == pytest.approx([2.0, 2 / 3])


def test_torch_loss_and_custom_loss(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = build_loss("torch.nn.MultiMarginLoss")
    torch.testing.assert_close(theirs(LOGITS, TARGETS), nn.functional.multi_margin_loss(LOGITS, TARGETS))
    (tmp_path / "my_losses.py").write_text(
        "from torch import nn\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, k: int):\n"
        "        super().__init__()\n"
        "        self.k = k\n"
        "    def forward(self, logits, targets):\n"
        "        return self.k * logits.square().mean()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    loss = build_loss([{"name": "my_losses.Mine", "k": 3}, "cross_entropy"])
    assert isinstance(loss, WeightedSum)
    assert loss.names == ["Mine", "cross_entropy"]
    torch.testing.assert_close(loss.parts(LOGITS, TARGETS)["Mine"], 3 * LOGITS.square().mean())


def test_from_python_with_modules() -> None:
    loss = WeightedSum([CrossEntropy(), Confidence(2.0)], weights=[1.0, 0.1])
    assert loss.names == ["CrossEntropy", "Confidence"]
    with pytest.raises(ValueError, match="2 losses, 1 weights"):
        WeightedSum([CrossEntropy(), Confidence()], weights=[1.0])


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        ("cros_entropy", r'^model\.loss: no loss is called "cros_entropy"\. Did you mean "cross_entropy"'),
        ([], r"^model\.loss: expected one loss or more"),
        (["focal", {"name": "focal", "gama": 1}], r'^model\.loss\[1\]: .* no argument "gama"\. Did you mean "gamma"'),
        ([{"name": "focal", "weight": "much"}], r"^model\.loss\[0\]\.weight: expected float or learned, got 'much'"),
        ([{"name": "focal", "weight": -1}], r"^model\.loss\[0\]\.weight: expected "),
        ([{"name": "focal", "gamma": "x"}], r"^model\.loss\[0\]\.gamma: expected float"),
        ([3], r"^model\.loss\[0\]: expected the name of a loss"),
        ({"name": "focal", "weight": 2.0}, r'^model\.loss: .* no argument "weight"'),
    ],
)
def test_invalid_values_are_rejected_with_key(specs: Any, message: str) -> None:
    for call in (check_losses, build_loss):
        with pytest.raises(SpecError, match=message):
            call(specs, "model.loss")


def test_other_objects_are_rejected() -> None:
    with pytest.raises(SpecError, match=r"^model\.loss: expected a torch\.nn\.Module, got a Fraction"):
        build_loss("fractions.Fraction", "model.loss")


def test_check_needs_only_the_names_of_the_facts() -> None:
    check_losses(["cross_entropy", {"name": "focal", "alpha": "balanced"}], "model.loss", ("class_counts",))
