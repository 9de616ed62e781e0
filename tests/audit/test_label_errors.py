from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from imgrec.audit import Inventory
from imgrec.audit.label_errors import count_judged, label_findings
from imgrec.audit.messages import JudgingModel, describe_judged
from imgrec.data import Digits, SourceView, Splits, split_source
from imgrec.errors import UserError
from imgrec.runs.predictions import Predictions


def inventory_with(targets: np.ndarray) -> Inventory:
    source = SourceView(Digits(), targets=targets)
    return Inventory.from_splits(source, Splits(np.arange(1000), np.arange(1000, 1400), np.arange(1400, 1797)))


def test_without_cleanlab_the_message_contains_the_command_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    predicted = Predictions(["0000"], [0], np.zeros((1, 10)), [str(i) for i in range(10)])
    with pytest.raises(UserError, match=r"pip install 'imgrec\[clean\]'"):
        list(label_findings(inventory_with(Digits().targets), [predicted]))


def test_wrong_labels_are_found_with_the_right_class() -> None:
    pytest.importorskip("cleanlab")
    images, targets = load_digits(return_X_y=True)
    changed = np.random.default_rng(0).choice(len(targets), 30, replace=False)
    noisy = targets.copy()
    noisy[changed] = (targets[changed] + 1 + np.arange(30) % 8) % 10
    model = LogisticRegression(max_iter=300, C=1.0)
    out_of_fold = cross_val_predict(model, images / 16, noisy, cv=5, method="predict_proba")
    names = [str(i) for i in range(10)]
    predicted = Predictions([f"{i:04d}" for i in range(len(noisy))], noisy, np.log(out_of_fold + 1e-9), names)
    found = {f.position: f.action for f in label_findings(inventory_with(noisy), [predicted])}
    hit = [row for row in changed.tolist() if row in found]
    assert len(hit) >= 22
    assert len(found) <= 50
    training = [row for row in hit if row < 1000]
    assert sum(found[row] == f"relabel: {targets[row]}" for row in training) >= len(training) - 2
    assert {found[row] for row in found if row >= 1000} == {"decide"}  # evaluation data keeps its labels


def test_predictions_of_other_data_raise() -> None:
    pytest.importorskip("cleanlab")
    inventory = inventory_with(Digits().targets)
    other = Predictions(["x"], [0], np.zeros((1, 10)), [str(i) for i in range(10)])
    with pytest.raises(UserError, match="got other ids only"):
        list(label_findings(inventory, [other]))
    with pytest.raises(UserError, match="got a, b"):
        list(label_findings(inventory, [Predictions(["0000"], [0], np.zeros((1, 2)), ["a", "b"])]))


def test_an_inventory_has_the_order_of_the_splits() -> None:
    source = Digits()
    splits = split_source(source)
    inventory = Inventory.from_splits(source, splits)
    assert len(inventory) == 1797
    assert [inventory.splits[i] for i in (0, len(splits.train), 1796)] == ["train", "val", "test"]
    assert inventory.class_name(0) == str(source.targets[splits.train[0]])


def test_judged_images_are_counted_by_model_and_split() -> None:
    inventory = inventory_with(Digits().targets)
    names = [str(i) for i in range(10)]
    ids = [f"{i:04d}" for i in range(1000, 1797)]
    given = [Predictions(part, [0] * len(part), np.zeros((len(part), 10)), names) for part in (ids[:400], ids[400:])]
    judges, judged = count_judged(inventory, given, ["runs/a", "runs/a"])
    assert judges == [JudgingModel("runs/a", {"val": 400, "test": 397})]
    totals = {"train": 1000, "val": 400, "test": 397}
    lines = describe_judged(judges, totals, judged)
    assert lines[0] == "runs/a judged 400 val, 397 test."
    assert lines[1].startswith("1,000 of 1,000 training images were not judged by a model that was not trained on them")
    assert len(lines) == 2
    assert describe_judged([], totals, {}) == ["No label was judged: no predictions were given (--predictions)."]
