from __future__ import annotations

import numpy as np
import pytest

from imgrec.data import Digits, Source, Splits, split_source
from imgrec.errors import UserError
from tests.data.helpers import BlankTable


def rows(counts: dict[str | None, list[int]], shuffle: int | None = None) -> BlankTable:
    """Return a table with the given number of rows of each class in each split."""
    table = [
        (f"{split or 'x'}/{target}/{i:03d}", target, split)
        for split, sizes in counts.items()
        for target, size in enumerate(sizes)
        for i in range(size)
    ]
    if shuffle is not None:
        table = [table[i] for i in np.random.default_rng(shuffle).permutation(len(table))]
    names = [f"class {i}" for i in range(max(map(len, counts.values())))]
    return BlankTable([t[0] for t in table], [t[1] for t in table], names, [t[2] for t in table])


def ids(source: Source, splits: Splits) -> list[list[str]]:
    return [[source.ids[i] for i in part] for part in (splits.train, splits.val, splits.test)]


def counts(source: Source, part: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> list[int]:
    return [int(n) for n in np.bincount(source.targets[part], minlength=len(source.class_names))]


def test_validation_and_test_are_split_by_class_without_given_splits() -> None:
    source = rows({None: [100, 50, 10, 3]})
    splits = split_source(source, 0.1, 0.2)
    assert counts(source, splits.val) == [10, 5, 1, 1]
    assert counts(source, splits.test) == [20, 10, 2, 1]
    assert sorted([*splits.train, *splits.val, *splits.test]) == list(range(163))


def test_carving_does_not_depend_on_the_order_of_the_rows() -> None:
    ordered = rows({None: [40, 30]})
    for number in range(3):
        shuffled = rows({None: [40, 30]}, shuffle=number)
        assert ids(shuffled, split_source(shuffled)) == ids(ordered, split_source(ordered))


def test_another_seed_carves_other_images() -> None:
    source = rows({None: [60, 60]})
    first, again, other = (split_source(source, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first.val, again.val)
    assert not np.array_equal(first.val, other.val)


def test_more_images_leave_nearly_every_image_in_its_split() -> None:
    small, large = rows({None: [100, 100]}), rows({None: [110, 110]})
    before = set(ids(small, split_source(small))[1])
    after = ids(large, split_source(large))
    assert len(before & set(after[1])) >= len(before) - 4


def test_given_splits_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    source = rows({"train": [5, 5], "val": [1, 2], "test": [3, 0]}, shuffle=0)
    splits = split_source(source)
    assert splits.sizes() == {"train": 10, "val": 3, "test": 3}
    assert 'no test image of the class "class 1".' in caplog.text
    for name, part in zip(("train", "val", "test"), ids(source, splits), strict=True):
        assert part == sorted(part)
        assert {i.split("/")[0] for i in part} == {name}


def test_missing_validation_comes_out_of_training_and_never_out_of_the_test() -> None:
    source = rows({"train": [40, 20], "test": [40, 20]})
    train, val, test = ids(source, split_source(source, 0.25, 0.5))
    assert len(val) == 15
    assert all(i.startswith("train/") for i in [*train, *val])
    assert sorted(test) == sorted(i for i in source.ids if i.startswith("test/"))


def test_a_given_validation_split_prevents_a_random_test_split() -> None:
    source = rows({"train": [40, 20], "val": [4, 4]})
    assert split_source(source).sizes() == {"train": 60, "val": 8, "test": 0}


def test_rows_without_a_split_go_with_training() -> None:
    source = rows({None: [20, 20], "test": [5, 5]})
    assert split_source(source, 0.1).sizes() == {"train": 36, "val": 4, "test": 10}


def test_a_fraction_of_zero_makes_no_test() -> None:
    assert split_source(rows({None: [20, 20]}), 0.1, 0.0).sizes() == {"train": 36, "val": 4, "test": 0}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({None: [9, 2]}, r'training, validation and test: the class "class 1" \(2\)'),
        ({"train": [9, 1], "test": [1, 1]}, r'training and validation: the class "class 1" \(1\)'),
        ({"train": [9, 0], "val": [2, 2]}, r'no training image of the class "class 1"\.'),
        ({"val": [2, 2], "test": [2, 2]}, "no training image: all images are in the splits test, val"),
        ({"train": [2] + [0] * 7, "val": [2] * 8}, r'"class 5" and 2 more'),
    ],
)
def test_a_missing_class_raises_with_its_name(table: dict[str | None, list[int]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_source(rows(table))


def test_a_class_without_validation_images_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    splits = split_source(rows({"train": [9, 9], "val": [2, 0]}))
    assert splits.sizes() == {"train": 18, "val": 2, "test": 0}
    assert 'no validation image of the class "class 1".' in caplog.text


def test_digits_have_every_class_in_every_split() -> None:
    source = Digits()
    splits = split_source(source)
    assert splits.sizes() == {"train": 1439, "val": 179, "test": 179}
    for part in (splits.val, splits.test):
        assert min(counts(source, part)) >= 17
