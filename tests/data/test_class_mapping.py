from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.data import ImageDataModule, Source, map_classes
from imgrec.errors import UserError

NAMES = ["bird", "cat", "dog", "ship"]


class Table(Source):
    def load(self, index: int) -> Tensor:
        return torch.full((1, 2, 2), index, dtype=torch.uint8)


def table(targets: Any = (0, 1, 2, 3, 1), **arguments: Any) -> Table:
    return Table(
        [f"i{i}" for i in range(len(targets))], targets, NAMES, columns={"n": range(len(targets))}, **arguments
    )


def words(source: Source) -> dict[str, str]:
    return {name: source.class_names[t] for name, t in zip(source.ids, source.targets.tolist(), strict=True)}


def test_no_mapping_returns_the_source() -> None:
    source = table()
    assert map_classes(source, None) is source


def test_a_list_restricts_and_orders() -> None:
    found = map_classes(table(), ["dog", "cat"])
    assert found.class_names == ("dog", "cat")
    assert words(found) == {"i1": "cat", "i2": "dog", "i4": "cat"}
    assert found.columns["n"].tolist() == [1, 2, 4]
    assert [int(found.load(row)[0, 0, 0]) for row in range(3)] == [1, 2, 4]


def test_a_mapping_renames_merges_and_leaves_out() -> None:
    found = map_classes(table(), {"cat": "animal", "dog": "animal", "ship": None})
    assert found.class_names == ("bird", "animal")
    assert words(found) == {"i0": "bird", "i1": "animal", "i2": "animal", "i4": "animal"}


@pytest.mark.parametrize(
    ("others", "names", "count"), [(None, ("cat", "vessel"), 3), ("rest", ("rest", "cat", "vessel"), 5)]
)
def test_the_others(others: str | None, names: tuple[str, ...], count: int) -> None:
    found = map_classes(table(), {"cat": "cat", "ship": "vessel", "*": others})
    assert found.class_names == names
    assert len(found) == count


def test_names_that_are_numbers() -> None:
    source = Table(["a", "b", "c"], [0, 1, 2], ["0", "1", "2"])
    assert map_classes(source, {0: "zero", 1: "one", 2: None}).class_names == ("zero", "one")
    assert map_classes(source, [2, 0]).class_names == ("2", "0")


def test_several_labels_an_image() -> None:
    source = table(np.array([[1, 0, 0, 1], [0, 1, 1, 0], [0, 0, 0, 1]]))
    found = map_classes(source, {"cat": "animal", "dog": "animal", "ship": None})
    assert found.ids == source.ids  # no image is left out
    assert found.targets.tolist() == [[1, 0], [0, 1], [0, 0]]
    assert map_classes(source, ["ship", "bird"]).targets.tolist() == [[1, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            {"cta": "x"},
            r'data\.classes: the data has no class "cta"\. Did you mean "cat"\? It has: bird, cat, dog, ship',
        ),
        (["cat", "dgo"], 'no class "dgo"\\. Did you mean "dog"'),
        (["cat"], "expected two classes or more, got cat of 4"),
        ({"*": None}, "got none of 4"),
        ({"*": "all"}, "got all of 4"),
    ],
)
def test_classes_that_the_data_lacks_are_rejected(classes: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        map_classes(table(), classes)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({True: "yes"}, "expected text as class names, got True"),
        ([None, "a"], "class names, got None"),
        (["a", "a"], 'expected each class once, got "a" twice'),
        ("cat", "expected a list of class names or a mapping"),
    ],
)
def test_an_invalid_mapping_is_rejected_before_data_is_read(classes: Any, message: str) -> None:
    with pytest.raises(UserError, match=r"data\.classes: .*" + message):
        ImageDataModule("digits", classes=classes)


def test_in_training() -> None:
    module = ImageDataModule("digits", classes={"0": "round", "8": "round", "1": "straight", "*": None}, num_workers=0)
    module.setup()
    assert module.facts.class_names == ("round", "straight")
    assert module.facts.class_counts == (282, 146)
    balanced = ImageDataModule("digits", classes=module.hparams["classes"], sampler="balanced", num_workers=0)
    balanced.setup()
    targets = torch.cat([batch.targets for batch in balanced.train_dataloader()])
    assert abs(int(targets.sum()) - len(targets) / 2) < 0.15 * len(targets)
    assert module.fingerprint == balanced.fingerprint
    plain = ImageDataModule("digits", num_workers=0)
    plain.setup()
    assert plain.fingerprint != module.fingerprint
