from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.data import SOURCES, Digits, Source
from imgrec.errors import UserError


class Table(Source):
    def __init__(self, *args: object, content: bytes = b"", **kwargs: object) -> None:
        self._bytes = content
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def load(self, index: int) -> Tensor:
        return torch.full((1, 2, 2), index, dtype=torch.uint8)

    def content(self) -> Iterator[bytes]:
        yield self._bytes


@pytest.mark.parametrize(
    ("ids", "targets", "names", "splits", "message"),
    [
        ([], [], ["a", "b"], None, "no image at all"),
        (["x", "y"], [0, 0], ["a"], None, "one only: a"),
        (["x", "x"], [0, 1], ["a", "b"], None, 'expected each id once, got "x" 2 times'),
        (["x", "x"], [0, 1], ["a", "b"], ["train", "test"], 'got "x" 2 times, in the splits test and train'),
        (["x", "y"], [0, 1], ["a", "a"], None, 'expected each class name once, got "a" 2 times'),
        (["x", "y"], [0, 2], ["a", "b"], None, "expected targets from 0 to 1 for 2 classes, got 0 to 2"),
        (["x", "y"], [0, 1], ["a", "b"], ["train", "dev"], 'expected the split train, val, test or none, got "dev"'),
        (["x", "y"], [0], ["a", "b"], None, "2 ids, 1 targets"),
    ],
)
def test_an_invalid_table_is_rejected(
    ids: list[str], targets: list[int], names: list[str], splits: list[str] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Table(ids, targets, names, splits)


def test_the_fingerprint_depends_on_all_data() -> None:
    plain: tuple[object, ...] = (["x", "y"], [0, 1], ["a", "b"], ["train", None])
    others: list[tuple[object, ...]] = [
        (["x", "z"], *plain[1:]),
        (plain[0], [1, 0], *plain[2:]),
        (*plain[:2], ["a", "c"], plain[3]),
        (*plain[:3], ["train", "val"]),
    ]
    prints = [Table(*plain).fingerprint(), Table(*plain, content=b"1").fingerprint()]
    prints += [Table(*other).fingerprint() for other in others]
    assert len(set(prints)) == len(prints)
    assert Table(*plain).fingerprint() == prints[0]
    assert all(len(print_) == 32 for print_ in prints)


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    bunch, source = load_digits(), Digits()
    assert len(source) == 1797
    assert source.in_memory
    assert np.array_equal(source.targets, bunch.target)
    stack = torch.stack([source.load(i)[0] for i in range(len(source))])
    assert stack.dtype == torch.uint8
    assert (int(stack.min()), int(stack.max())) == (0, 255)
    assert np.array_equal(np.rint(stack.numpy() / 255 * 16), bunch.images)
    assert source.ids == sorted(source.ids)


def test_every_source_has_a_summary_line() -> None:
    assert {"digits", "folder", "csv", "torchvision"} <= set(SOURCES.names())
    assert all(entry.summary.endswith(".") for entry in SOURCES)
