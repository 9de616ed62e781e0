from __future__ import annotations

import numpy as np
import pytest

from imgrec.data import split_source, stratify
from tests.data.helpers import BlankTable


def labels(rows: int, shares: tuple[float, ...] = (0.6, 0.3, 0.1, 0.02), seed: int = 0) -> np.ndarray[tuple[int, int]]:
    drawn = np.random.default_rng(seed).random((rows, len(shares))) < np.asarray(shares)
    return drawn.astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_every_label_is_shared_out_as_the_rows_are(seed: int) -> None:
    targets = labels(500, seed=seed)
    ids = [f"i{i}" for i in range(500)]
    parts = stratify(targets, ids, (0.1, 0.2), seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(500))
    for part, share in zip(parts, (0.1, 0.2, 0.7), strict=True):
        assert abs(len(part) - share * 500) <= 3
        assert np.abs(targets[part].sum(0) - share * targets.sum(0)).max() <= 2
    by_chance = np.random.default_rng(seed).permutation(500)[:50]
    away = np.abs(targets[parts[0]].sum(0) - 0.1 * targets.sum(0)).sum()
    assert away < np.abs(targets[by_chance].sum(0) - 0.1 * targets.sum(0)).sum()


def test_it_depends_on_ids_and_seed_alone() -> None:
    targets, ids = labels(120), [f"i{i}" for i in range(120)]
    mixed = np.random.default_rng(1).permutation(120)
    first = [{ids[row] for row in part} for part in stratify(targets, ids, (0.1, 0.2), 0)]
    second = stratify(targets[mixed], [ids[row] for row in mixed], (0.1, 0.2), 0)
    assert [{ids[mixed[row]] for row in part} for part in second] == first
    assert [{ids[row] for row in part} for part in stratify(targets, ids, (0.1, 0.2), 1)] != first


def test_a_label_with_three_rows_is_in_every_part() -> None:
    targets = np.zeros((60, 2), dtype=np.float32)
    targets[:, 0] = 1
    targets[:3, 1] = 1
    parts = stratify(targets, [f"i{i}" for i in range(60)], (0.1, 0.1), 0)
    assert [int(targets[part, 1].sum()) for part in parts] == [1, 1, 1]


def test_no_part_for_a_fraction_of_0() -> None:
    test, val, train = stratify(labels(50), [f"i{i}" for i in range(50)], (0.0, 0.2), 0)
    assert (len(test), len(train) + len(val)) == (0, 50)
    assert abs(len(val) - 10) <= 2


def test_given_splits_are_kept() -> None:
    splits = ["test"] * 10 + [None] * 40
    source = BlankTable([f"i{i:02d}" for i in range(50)], labels(50, (0.5, 0.5)), ["a", "b"], splits)
    found = split_source(source, 0.25, 0.5)
    assert found.test.tolist() == list(range(10))
    assert abs(len(found.val) - 10) <= 1
