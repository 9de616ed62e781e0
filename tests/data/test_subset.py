from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgrec.data import SOURCES, Concat, ImageDataModule, Source, Subset, map_classes
from imgrec.data.cache.policy import Table
from imgrec.data.cache.split_caches import evaluation_splits
from imgrec.data.wrappers.subset import proportional_order
from imgrec.errors import UserError
from tests.data.helpers import split_rows

Writer = Callable[..., Path]


class Rows(Source):
    """Gray images, ``count`` of each class, all in one split or in none."""

    def __init__(self, counts: list[int], splits: Sequence[str] | None = None, targets: Any = None) -> None:
        labels = np.repeat(np.arange(len(counts)), counts) if targets is None else np.asarray(targets)
        names = [f"{i:05d}" for i in range(len(labels))]
        super().__init__(names, labels, [f"c{i}" for i in range(len(counts))], splits, in_memory=True)

    def load(self, index: int) -> torch.Tensor:
        return torch.full((1, 2, 2), index % 256, dtype=torch.uint8)


def ids(source: Source, split: str = "train") -> set[str]:
    return {source.ids[row] for row in split_rows(source, split)}


def counts(source: Source, split: str = "train") -> list[int]:
    found: list[int] = source.class_counts(split_rows(source, split)).tolist()
    return found


def test_validation_and_test_are_those_that_the_whole_source_would_have() -> None:
    arguments: dict[str, Any] = {"image_size": 8, "val_fraction": 0.3, "test_fraction": 0.2, "split_seed": 7}
    whole = ImageDataModule("digits", **arguments)
    part = ImageDataModule({"name": "subset", "source": "digits", "images": 50}, **arguments)
    whole.setup()
    part.setup()
    assert part.split_sizes() == {**whole.split_sizes(), "train": 50}
    assert part.facts.class_counts == (5,) * 10
    for split in ("val", "test"):
        before = [whole.source.ids[row] for row in getattr(whole.splits, split)]
        assert [part.source.ids[row] for row in getattr(part.splits, split)] == before
    assert {part.source.ids[row] for row in part.splits.train} < {whole.source.ids[row] for row in whole.splits.train}
    assert part.fingerprint != whole.fingerprint


def test_the_classes_keep_their_proportions_by_websters_divisors() -> None:
    sizes = [52, 30, 17, 1]  # without a tie
    targets = np.repeat(np.arange(4), sizes)
    order = proportional_order(np.concatenate([np.arange(n) for n in sizes]), np.asarray(sizes)[targets])
    seats = [1, 1, 1, 1]  # one each, then seat by seat to the largest quotient
    for given in range(4, 101):
        assert np.bincount(targets[order[:given]]).tolist() == seats
        if given < 100:
            open_seats = [n / (2 * s + 1) if s < n else 0.0 for n, s in zip(sizes, seats, strict=True)]
            seats[int(np.argmax(open_seats))] += 1


@pytest.mark.parametrize(
    ("one_of", "sizes", "left"),
    [
        ("images", [3, 10, 11, 50, 120], [3, 10, 11, 50, 120]),
        ("per_class", [1, 2, 9], [3, 6, 27]),
        ("fraction", [0.02, 0.1, 0.35, 1.0], [3, 16, 56, 160]),
    ],
)
def test_a_smaller_subset_lies_within_a_larger_one(one_of: str, sizes: list[Any], left: list[int]) -> None:
    source = Rows([120, 60, 20])
    found = [ids(Subset(source, **{one_of: size})) for size in sizes]
    assert [len(part) for part in found] == left
    for small, large in pairwise(found):
        assert small < large


def test_the_subset_depends_on_seed_and_ids_only() -> None:
    source = Rows([80, 40], ["train"] * 108 + ["val"] * 12)
    source.splits[0] = source.splits[50] = "val"  # of both classes
    shuffled = np.random.default_rng(0).permutation(120)

    class Shuffled(Source):
        def __init__(self) -> None:
            splits = [source.splits[i] for i in shuffled]
            super().__init__([source.ids[i] for i in shuffled], source.targets[shuffled], source.class_names, splits)

        def load(self, index: int) -> torch.Tensor:
            return source.load(int(shuffled[index]))

    kept = Subset(source, fraction=0.25)
    assert ids(kept) == ids(Subset(Shuffled(), fraction=0.25))
    assert ids(kept) != ids(Subset(source, fraction=0.25, seed=1))
    assert torch.equal(kept.load(5), source.load(source.ids.index(kept.ids[5])))


def test_selected_splits_are_reduced() -> None:
    source = Rows([40, 40], (["train"] * 20 + ["val"] * 10 + ["test"] * 10) * 2)
    assert [len(split_rows(Subset(source, per_class=4), s)) for s in ("train", "val", "test")] == [8, 20, 20]
    both = Subset(source, per_class=4, splits=["train", "test"])
    assert [len(split_rows(both, s)) for s in ("train", "val", "test")] == [8, 20, 8]
    whole = Subset(source, fraction=1.0, splits=["train", "val", "test"])
    assert whole.ids == source.ids
    assert whole.splits == source.splits


def test_several_labels_an_image_are_shared_out_label_by_label() -> None:
    table = (np.random.default_rng(0).random((400, 3)) < [0.5, 0.2, 0.05]).astype(np.float32)
    source = Rows([1, 1, 1], targets=table)
    kept = Subset(source, fraction=0.25, test_fraction=0.0)
    before = table[[source.ids.index(name) for name in ids(Subset(source, fraction=1.0, test_fraction=0.0))]].sum(0)
    assert np.abs(np.asarray(counts(kept)) - before / 4).max() <= 1.5
    with pytest.raises(UserError, match="per_class: expected images or fraction for a source with several labels"):
        Subset(source, per_class=2)


def test_wrappers_can_be_nested() -> None:
    inner = {"name": "subset", "source": "digits", "per_class": 40}
    twice = SOURCES.build({"name": "subset", "source": inner, "fraction": 0.5})
    assert counts(twice) == [20] * 10
    assert ids(twice) < ids(SOURCES.build(inner))
    assert ids(twice, "test") == ids(SOURCES.build(inner), "test")
    both = SOURCES.build({"name": "concat", "sources": [inner, inner], "names": ["a", "b"]})
    assert isinstance(both, Concat)
    assert counts(both) == [80] * 10
    even = map_classes(SOURCES.build(inner), ["0", "2", "4"])
    assert counts(even) == [40] * 3


def test_only_remaining_images_are_cached(classes: Writer) -> None:
    root = classes({"a": 30, "b": 30})
    plain = SOURCES.build({"name": "folder", "root": str(root)})
    small = SOURCES.build({"name": "subset", "source": {"name": "folder", "root": str(root)}, "per_class": 2})
    assert len(Table.from_source(plain, {None, "train"}).needed) == 60
    assert len(Table.from_source(small, {None, "train"}).needed) == len(small) == 4 + 6 + 6
    assert evaluation_splits(small) == evaluation_splits(plain)


def test_a_subset_trains_from_a_cache(classes: Writer) -> None:
    spec = {"name": "subset", "source": {"name": "folder", "root": str(classes({"a": 30, "b": 30}))}, "per_class": 2}
    cached, read = (
        ImageDataModule(spec, image_size=12, batch_size=4, num_workers=0, cache=mode) for mode in ("memory", "off")
    )
    for module in (cached, read):
        module.setup()
    for loader in ("train_dataloader", "val_dataloader", "test_dataloader"):
        batches = list(zip(getattr(cached, loader)(), getattr(read, loader)(), strict=True))
        assert batches
        for ours, theirs in batches:
            assert ours.ids == theirs.ids
            assert torch.equal(ours.images, theirs.images)
    assert cached.val_dataloader().dataset.is_one_copy  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"data\.source: expected one of images, per_class and fraction, got none"),
        ({"images": 5, "fraction": 0.1}, r"per_class and fraction, got images and fraction"),
        ({"images": 0}, r"images: expected int > 0 \| None, got 0"),
        ({"per_class": -1}, r"per_class: expected int > 0 \| None, got -1"),
        ({"fraction": 1.5}, r"fraction: expected float in \(0, 1\] \| None, got 1\.5"),
        ({"fraction": 0.5, "splits": ["trian"]}, r'splits: no split is called "trian"\. Did you mean "train"\?'),
        ({"fraction": 0.5, "splits": []}, r"splits: expected one or more of train, val, test, got none"),
        ({"fraction": 0.5, "source": "digit"}, r'data\.source\.source: no source is called "digit"'),
        ({"fraction": "half"}, r"data\.source\.fraction: expected float in \(0, 1\] \| None, got 'half'"),
    ],
)
def test_invalid_arguments_are_rejected_before_data_is_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ImageDataModule({"name": "subset", "source": "digits", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 9}, r"images: expected one or more for each of 10 classes, got 9"),
        ({"images": 5000}, r"images: expected at most 1,439, the images of the split train, got 5,000"),
        ({"per_class": 142}, r"per_class: expected .* in train, got 142: 2 has 141, 8 has \d+\.$"),
        ({"per_class": 500}, r"per_class: .*: 0 has 142, .* and 5 more classes have fewer"),
    ],
)
def test_a_source_with_too_few_images_raises_an_error(arguments: dict[str, Any], message: str) -> None:
    module = ImageDataModule({"name": "subset", "source": "digits", **arguments}, image_size=8)
    with pytest.raises(UserError, match=r"^data\.source: " + message):
        module.setup()


def test_reducing_a_missing_split_raises() -> None:
    with pytest.raises(UserError, match='splits: there is no image in the split "test"'):
        Subset(Rows([20, 20]), fraction=0.5, splits=["test"], test_fraction=0.0)
