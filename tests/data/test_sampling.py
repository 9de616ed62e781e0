from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from imgrec.data import EvaluationSampler, TrainingSampler
from imgrec.data.samplers.order import BLANK
from imgrec.errors import UserError


def positions(order: TrainingSampler, epoch: int) -> list[int]:
    order.set_epoch(epoch)
    pairs = list(order)
    assert {e for _, e in pairs} == {epoch}
    return [p for p, _ in pairs]


def test_an_epochs_order_is_a_function_of_seed_and_epoch() -> None:
    order = TrainingSampler(50, seed=3)
    first, second = positions(order, 0), positions(order, 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert positions(order, 0) == first
    assert positions(TrainingSampler(50, seed=3), 1) == second
    assert positions(TrainingSampler(50, seed=4), 1) != second


def test_global_random_state_plays_no_part() -> None:
    torch.manual_seed(1)
    first = positions(TrainingSampler(30, seed=0), 2)
    torch.manual_seed(2)
    assert positions(TrainingSampler(30, seed=0), 2) == first


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_processes_together_make_the_batches_of_one(world_size: int) -> None:
    """The union of the k-th batches of ``b`` of all ranks is the k-th batch of ``world_size * b``."""
    alone = positions(TrainingSampler(61, seed=0), 5)
    ranks = [positions(TrainingSampler(61, 0, rank, world_size), 5) for rank in range(world_size)]
    assert {len(r) for r in ranks} == {61 // world_size}
    for k in range(61 // world_size // 4):
        together = {p for rank in ranks for p in rank[4 * k : 4 * k + 4]}
        assert together == set(alone[4 * world_size * k : 4 * world_size * (k + 1)])


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [1, 5, 12, 13])
@pytest.mark.parametrize("size", [1, 4, 20])
def test_evaluation_takes_the_batches_of_one_process_in_turn(count: int, world_size: int, size: int) -> None:
    alone = [list(range(start, min(start + size, count))) for start in range(0, count, size)]
    found = []
    for rank in range(world_size):
        order = EvaluationSampler(count, rank, world_size, size)
        mine = list(order)
        batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        assert len(order) == len(mine)
        assert len(batches) == -(-len(alone) // world_size)  # as many on every process
        found += [batch for batch in batches if batch != [BLANK]]
        assert all(BLANK not in batch for batch in batches[:-1])
    assert sorted(found) == alone


def test_completed_batches_are_skipped_at_the_start_of_an_epoch() -> None:
    done = [0]
    order = TrainingSampler(20, seed=0, skip=lambda: done[0])
    whole = positions(order, 0)
    done[0] = 8
    assert positions(order, 0) == whole[8:]
    assert len(order) == 20  # the length is the epoch's, so that progress and the last batch are counted right


def test_fewer_images_than_processes() -> None:
    with pytest.raises(UserError, match="expected a training image for each of 4 processes, got 3"):
        TrainingSampler(3, 0, 0, 4)


@pytest.mark.parametrize("extra", [0.57, 0.05, 3.9])
def test_a_sample_that_is_expected_a_fraction_of_times_is_drawn_so_often(extra: float) -> None:
    """One sample alone has a fraction: it comes floor(r) times, or one further time, with the right frequency."""
    count, epochs, repeats = 100, 1500, np.ones(100)
    repeats[7] += extra
    order = TrainingSampler(count, seed=3, repeats=repeats)
    found = []
    for epoch in range(epochs):
        order.set_epoch(epoch)
        positions = np.asarray([place % count for place, _ in order])
        assert len(positions) == len(order) == math.ceil(repeats.sum())
        counts = np.bincount(positions, minlength=count)
        assert counts.min() >= 1  # nothing is left out
        found.append(int(counts[7]))
    low = math.floor(1 + extra)
    assert set(found) == {low, low + 1}
    error = math.sqrt(0.25 / epochs)
    assert np.mean(found) == pytest.approx(1 + extra, abs=4 * error + 1 / count)
