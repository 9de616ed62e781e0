from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from imgrec.errors import SpecError, UserError
from imgrec.losses import LOSSES, balanced_class_weights, resolve_class_weights
from imgrec.losses.class_weights import ClassWeights

NAMES = ("cat", "dog", "owl")


def test_balanced_weights_equal_scikit_learn() -> None:
    counts = [50, 7, 123, 1]
    labels = np.repeat(np.arange(4), counts)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    torch.testing.assert_close(balanced_class_weights(counts), torch.tensor(expected).float())


def test_balanced_weights_reject_empty_class() -> None:
    with pytest.raises(UserError, match="class 1 has no training image"):
        balanced_class_weights([3, 0])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ({"owl": 3.0}, [1.0, 1.0, 3.0]),
        ({"owl": 3.0, "cat": 0.5}, [0.5, 1.0, 3.0]),
        ("balanced", [2.0, 1.0, 2 / 3]),
    ],
)
def test_all_forms_of_class_weights(given: ClassWeights, expected: list[float] | None) -> None:
    weights = resolve_class_weights(given, 3, NAMES, (10, 20, 30))
    assert expected is None if weights is None else weights.tolist() == pytest.approx(expected)


def test_a_class_name_that_yaml_reads_as_a_number() -> None:
    loss = LOSSES.build(
        {"name": "cross_entropy", "class_weights": {1: 4.0}}, num_classes=2, class_names=("0", "1"), class_counts=(1, 1)
    )
    assert loss.get_buffer("class_weights").tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1.0, 2.0], r"class_weights: expected 3 weights, one per class, got 2"),
        ({"owll": 2.0}, r'no class is called "owll"\. Did you mean "owl"\? \(the classes are cat, dog, owl\)'),
        ({"owl": 0.0}, r"class_weights.owl: expected .*, got 0.0"),
        ([1.0, -2.0, 1.0], r"class_weights\[1\]: expected .*, got -2.0"),
        ([1.0, float("inf"), 1.0], r"class_weights\[1\]: expected "),
        ("balancd", "class_weights: expected .*balanced"),
    ],
)
def test_invalid_weights_are_rejected_with_key(given: object, message: str) -> None:
    spec = {"name": "cross_entropy", "class_weights": given}
    with pytest.raises(SpecError, match=rf"^model\.loss.*{message}"):
        LOSSES.build(spec, "model.loss", num_classes=3, class_names=NAMES, class_counts=(1, 1, 1))


@pytest.mark.parametrize(("given", "needed"), [("balanced", "class_counts"), ({"owl": 1.0}, "class_names")])
def test_missing_facts_of_weights_are_rejected(given: ClassWeights, needed: str) -> None:
    with pytest.raises(UserError, match=needed):
        resolve_class_weights(given)
