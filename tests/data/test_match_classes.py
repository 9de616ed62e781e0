from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.data.labelled_set import build_whole_source, rows_in_split, source_spec
from imgrec.data.match_classes import match_classes
from imgrec.data.purpose import for_evaluation
from imgrec.data.sources.base import Source
from imgrec.errors import UserError


class Names(Source):
    """Two images of each class."""

    def __init__(self, *names: str) -> None:
        targets = np.repeat(np.arange(len(names)), 2)
        super().__init__([f"{names[t]}/{i}" for i, t in enumerate(targets)], targets, names)

    def load(self, index: int) -> Tensor:
        return torch.zeros(1, 4, 4, dtype=torch.uint8)


def found(source: Source, *model: str, **options: Any) -> dict[str, str]:
    matched = match_classes(source, model, **options).source
    assert matched.class_names == tuple(model)
    return {name: model[target] for name, target in zip(matched.ids, matched.targets, strict=True)}


def test_classes_are_matched_by_name_in_any_order_and_form() -> None:
    assert found(Names("dog", "cat"), "cat", "dog", "emu") == {
        "dog/0": "dog", "dog/1": "dog", "cat/2": "cat", "cat/3": "cat"
    }  # fmt: skip
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert set(found(Names(decomposed, "cat"), composed, "cat").values()) == {composed, "cat"}
    with for_evaluation():
        assert set(found(Names("cat"), "cat", "dog").values()) == {"cat"}


def test_the_mapping_of_the_run_is_followed_and_new_names_are_accepted() -> None:
    mapping: dict[str | int, str | int | None] = {"0": "round", "8": "round", "1": "straight", "*": None}
    source = Names("0", "straight", "5")
    matched = match_classes(source, ("round", "straight"), mapping)
    assert matched.left_out == {"5": 2}
    assert dict(zip(matched.source.ids, matched.source.targets.tolist(), strict=True)) == {
        "0/0": 0, "0/1": 0, "straight/2": 1, "straight/3": 1
    }  # fmt: skip
    assert match_classes(Names("a", "b", "c"), ("b", "a"), ["b", "a"]).left_out == {"c": 2}


def test_unknown_classes_are_rejected_with_the_nearest_or_counted() -> None:
    source = Names("dgo", "cat")
    with pytest.raises(UserError, match=r'"dgo" \(2 images\) Did you mean "dog"\?.*--skip-unknown'):
        match_classes(source, ("cat", "dog"))
    matched = match_classes(source, ("cat", "dog"), skip_unknown=True)
    assert (matched.unknown, len(matched.source)) == ({"dgo": 2}, 2)
    with pytest.raises(UserError, match="none of 4 images has a class"):
        match_classes(source, ("x", "y"), skip_unknown=True)


def test_invalid_data_is_rejected(tmp_path: Any) -> None:
    for given, message in (
        ("digit", 'Did you mean "digits"'),
        ("{file: a.csv}", "expected `name`, `source` or `data.source`"),
        (str(tmp_path / "a.txt"), "not found"),
    ):
        with pytest.raises(UserError, match=message):
            source_spec(given)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="expected a folder, a file"):
        source_spec(tmp_path / "a.txt")
    (tmp_path / "a.yaml").write_text("data: {source: {name: csv, file: b.csv}, batch_size: 3}")
    assert source_spec(tmp_path / "a.yaml") == {"source": {"name": "csv", "file": "b.csv"}}
    digits = build_whole_source("digits")
    assert len(rows_in_split(digits, None)) == 1797
    with pytest.raises(UserError, match=r"no such images\. It has: 1,797 without a split"):
        rows_in_split(digits, "test")
