from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.data import SOURCES, Concat, ImageDataModule, Source
from imgrec.errors import UserError

Writer = Callable[..., Path]


class Table(Source):
    def __init__(self, label: str, classes: list[str], count: int = 12, **arguments: Any) -> None:
        self.value = len(label)
        targets = arguments.pop("targets", [i % len(classes) for i in range(count)])
        super().__init__([f"{label}{i:02d}" for i in range(count)], targets, classes, in_memory=True, **arguments)

    def load(self, index: int) -> Tensor:
        return torch.full((1, 2, 2), 100 * self.value + index, dtype=torch.uint8)


def test_ids_stay_unique_and_classes_are_united_by_name() -> None:
    first, second = Table("a", ["cat", "dog"], 4), Table("a", ["dog", "ship"], 4, splits=["train", "val"] * 2)
    both = Concat([first, second], names=["lab", "web"])
    assert both.ids == [f"lab/a{i:02d}" for i in range(4)] + [f"web/a{i:02d}" for i in range(4)]
    assert both.class_names == ("cat", "dog", "ship")
    assert both.targets.tolist() == [0, 1, 0, 1, 1, 2, 1, 2]
    assert both.splits == [None] * 4 + ["train", "val"] * 2
    assert both.repeats is None
    assert both.in_memory
    assert [int(both.load(row)[0, 0, 0]) for row in range(8)] == [100, 101, 102, 103] * 2


def test_columns_of_some_sources_only() -> None:
    first = Table("a", ["x", "y"], 2, columns={"age": [1, 2], "site": ["s", "t"]})
    second = Table("b", ["x", "y"], 2, columns={"age": [3, 4]})
    both = Concat([first, second])
    assert both.columns["age"].tolist() == [1, 2, 3, 4]
    assert both.columns["age"].dtype.kind == "i"
    assert both.columns["site"].tolist() == ["s", "t", None, None]


def test_several_labels_are_united_too() -> None:
    first = Table("a", ["x", "y"], 2, targets=[[1, 0], [1, 1]])
    second = Table("b", ["z", "y"], 1, targets=[[1, 1]])
    assert Concat([first, second]).targets.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 1]]
    with pytest.raises(UserError, match=r"expected one label per image in all or in none, got several in 1"):
        Concat([Table("c", ["x", "y"]), first])


def test_weights_multiply_when_nested() -> None:
    inner = Concat([Table("a", ["x", "y"], 2), Table("b", ["x", "y"], 2)], weights=[1, 2])
    outer = Concat([inner, Table("c", ["x", "y"], 2)], weights=[0.5, 1])
    assert outer.repeats is not None
    assert outer.repeats.tolist() == [0.5, 0.5, 1, 1, 1, 1]
    assert outer.ids[2] == "0/1/b00"


def test_a_weight_repeats_and_subsamples_in_training_only(classes: Writer) -> None:
    roots = [classes({"a": 20, "b": 20}, root="one"), classes({"a": 20, "b": 20}, root="two")]
    spec = {
        "name": "concat",
        "sources": [{"name": "folder", "root": str(root)} for root in roots],
        "weights": [2.0, 0.25],
    }
    module = ImageDataModule(spec, batch_size=10, num_workers=0, train_transforms=[], eval_transforms=[])
    module.setup()
    rows = module.splits.train
    first = {module.source.ids[row] for row in rows if module.source.ids[row].startswith("0/")}
    second = {module.source.ids[row] for row in rows} - first

    def epoch(number: int) -> Counter[str]:
        loader = module.train_dataloader()
        loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
        return Counter(name for place, _ in loader.sampler for name in [module.source.ids[rows[place % len(rows)]]])

    seen = [epoch(number) for number in range(3)]
    assert seen[0] == epoch(0)
    for counts in seen:
        assert all(counts[name] == 2 for name in first)
        assert abs(sum(counts[name] for name in second) - len(second) / 4) <= 1
        assert max(counts[name] for name in second) == 1
    assert {n for n in second if seen[0][n]} != {n for n in second if seen[1][n]}
    evaluated = Counter(name for batch in module.val_dataloader() for name in batch.ids)
    assert set(evaluated.values()) == {1}
    assert not set(evaluated) & (first | second)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": []}, r"data\.source: sources: expected a list of one source or more"),
        ({"sources": ["digits"], "weights": [1, 2]}, r"weights: expected one for each of 1 sources, got 2"),
        ({"sources": ["digits"], "weights": [0]}, r"weights: expected float > 0, got 0"),
        ({"sources": ["digits", "digits"], "names": ["a", "a"]}, r"names: expected different names"),
        ({"sources": ["digits", "digit"]}, r'data\.source\.sources\[1\]: no source is called "digit"'),
        (
            {"sources": ["digits", {"name": "folder", "rot": "x"}]},
            r'data\.source\.sources\[1\]: the source "folder" has no argument "rot"',
        ),
    ],
)
def test_invalid_arguments_are_rejected_before_data_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDataModule({"name": "concat", **arguments})


def test_specs_are_nested() -> None:
    both = SOURCES.build({"name": "concat", "sources": ["digits", {"name": "digits"}]})
    assert len(both) == 2 * 1797
    assert np.array_equal(both.targets[:1797], both.targets[1797:])
    assert torch.equal(both.load(1800), both.load(3))
    rows = np.asarray([1800, 3, 2500, 0])
    whole = both.gather(rows)
    assert whole is not None
    assert torch.equal(whole, torch.stack([both.load(int(row)) for row in rows]))
