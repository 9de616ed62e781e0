from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from imgrec.data import Digits, ImageDataModule, LongTail, Source
from imgrec.data.wrappers.long_tail import tail_counts
from imgrec.errors import UserError


def training(source: Source) -> list[int]:
    return [row for row, split in enumerate(source.splits) if split == "train"]


def counts(source: Source) -> list[int]:
    found: list[int] = source.class_counts(training(source)).tolist()
    return found


@pytest.mark.parametrize(
    ("most", "classes", "imbalance", "total"),
    [
        (5000, 10, 10, 20_431),
        (5000, 10, 50, 13_996),
        (5000, 10, 100, 12_406),
        (500, 100, 10, 19_573),
        (500, 100, 100, 10_847),
    ],
)
def test_the_published_sizes_of_long_tailed_cifar(most: int, classes: int, imbalance: int, total: int) -> None:
    """CIFAR-10-LT and CIFAR-100-LT as Cao et al. 2019 made them (arXiv 1906.07413)."""
    found = tail_counts(most, classes, imbalance)
    assert found.sum() == total
    assert found[0] == imbalance * found[-1] == most
    assert found.tolist() == sorted(found.tolist(), reverse=True)


def test_a_step() -> None:
    assert tail_counts(500, 6, 10, "step").tolist() == [500] * 3 + [50] * 3
    assert tail_counts(3, 4, 100).tolist() == [3, 1, 1, 1]
    assert tail_counts(7, 3, 1).tolist() == [7, 7, 7]


def test_the_tail_is_cut_off_training_alone() -> None:
    arguments: dict[str, Any] = {"image_size": 8, "val_fraction": 0.2, "test_fraction": 0.3, "split_seed": 5}
    whole = ImageDataModule("digits", **arguments)
    tail = ImageDataModule({"name": "long_tail", "source": "digits", "imbalance": 10}, **arguments)
    whole.setup()
    tail.setup()
    most = max(whole.facts.class_counts)
    wanted = tail_counts(most, 10, 10).tolist()
    assert tail.facts.class_counts == tuple(map(min, wanted, whole.facts.class_counts))
    for split in ("val", "test"):
        before = [whole.source.ids[row] for row in getattr(whole.splits, split)]
        assert [tail.source.ids[row] for row in getattr(tail.splits, split)] == before
    assert tail.fingerprint != whole.fingerprint


def test_the_order_determines_the_rare_classes() -> None:
    order = [str(i) for i in (3, 1, 4, 5, 9, 2, 6, 8, 7, 0)]
    found = counts(LongTail(Digits(), imbalance=50, order=order))
    assert [found[int(name)] for name in order] == sorted(found, reverse=True)
    assert found[3] == max(counts(LongTail(Digits(), imbalance=1)))


def test_a_longer_tail_lies_within_a_shorter_one() -> None:
    tails = [LongTail(Digits(), imbalance=factor) for factor in (100, 10, 1)]
    parts = [{tail.ids[row] for row in training(tail)} for tail in tails]
    assert parts[0] < parts[1] < parts[2]
    again = LongTail(Digits(), imbalance=10)
    assert again.ids == tails[1].ids
    other = LongTail(Digits(), imbalance=10, seed=1)
    assert counts(other) == counts(again)
    assert {other.ids[row] for row in training(other)} != parts[1]


def test_pixels_follow_their_ids_at_once_and_one_by_one() -> None:
    base = Digits()
    tail = LongTail(base, imbalance=30)
    rows = np.asarray([5, 0, len(tail) - 1])
    gathered = tail.gather(rows)
    assert gathered is not None
    for image, row in zip(gathered, rows.tolist(), strict=True):
        assert torch.equal(image, tail.load(row))
        assert torch.equal(image, base.load(base.ids.index(tail.ids[row])))


def test_a_class_with_fewer_images_keeps_all() -> None:
    class Uneven(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.splits = ["train" if t else "test" for t in self.targets]
            self.splits[: len(self) // 2] = ["train"] * (len(self) // 2)

    found = counts(LongTail(Uneven(), imbalance=1.5))
    assert found[0] < found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"imbalance": 0.5}, r"^data\.source\.imbalance: expected float >= 1, got 0\.5"),
        ({"imbalance": float("inf")}, r"imbalance: expected float >= 1, got inf"),
        ({"profile": "linear"}, r"data\.source\.profile: expected Literal\['exponential', 'step'\], got 'linear'"),
        ({"order": ["1", "1"]}, r'order: expected each class once, got "1" twice'),
        (
            {"source": {"name": "digits", "size": 3}},
            r'data\.source\.source: the source "digits" has no argument "size"',
        ),
        ({"imbalanse": 10}, r'has no argument "imbalanse"\. Did you mean "imbalance"'),
    ],
)
def test_invalid_arguments_are_rejected_before_data_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDataModule({"name": "long_tail", "source": "digits", **arguments})


def test_an_order_names_every_class_once() -> None:
    with pytest.raises(UserError, match=r"order: expected every class once, got none of 2, 3, 4, 5, 6"):
        LongTail(Digits(), order=["0", "1"])
    with pytest.raises(UserError, match=r'order: the data has no class "1O"\. Did you mean'):
        LongTail(Digits(), order=["1O"])


def test_several_labels_have_no_tail() -> None:
    class Several(Digits):
        def __init__(self) -> None:
            super().__init__()
            self.targets = np.eye(10, dtype=np.float32)[self.targets]

    with pytest.raises(UserError, match="expected one label per image, got several"):
        LongTail(Several())
