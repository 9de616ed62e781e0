from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.augment import BatchRandom
from imgrec.utils.seeding import position_seed

COUNT = 20_000


def keys(count: int = COUNT) -> Tensor:
    """Return hashes of ids, as the data module computes them."""
    return torch.tensor([position_seed(f"{i}.png") for i in range(count)], dtype=torch.int64)


@pytest.fixture(scope="module")
def draws() -> BatchRandom:
    return BatchRandom(keys(), 0, 1)


def test_the_hash_gives_the_published_numbers_of_splitmix64() -> None:
    """Compare with the reference sequence of SplitMix64 for the state 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    found = BatchRandom(torch.tensor([1234567])).bits(5)[0].tolist()
    assert [bits % 2**64 for bits in found] == expected


def test_a_sample_draws_the_same_in_any_batch_and_again() -> None:
    whole = BatchRandom(keys(50), 3, 7).fork("a")
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))[:9]
    some = BatchRandom(keys(50)[order], 3, 7).fork("a")
    for kind in ("uniform", "normal"):
        assert torch.equal(getattr(whole, kind)(3)[order], getattr(some, kind)(3))
    assert torch.equal(whole.integers(0, 9, 2)[order], some.integers(0, 9, 2))
    torch.testing.assert_close(whole.beta(0.2, 0.2)[order], some.beta(0.2, 0.2))


def test_seeds_epochs_names_samples_and_calls_draw_differently() -> None:
    def first(*position: int, name: str = "a") -> Tensor:
        return BatchRandom(keys(2000), *position).fork(name).uniform()[:, 0]

    again = BatchRandom(keys(2000), 0, 0).fork("a")
    again.uniform()
    others = [first(0, 1), first(1, 0), first(0, 0, name="b"), again.uniform()[:, 0], first(0, 0).roll(1)]
    assert torch.equal(first(0, 0), first(0, 0))
    for other in others:
        assert abs(np.corrcoef(first(0, 0).numpy(), other.numpy())[0, 1]) < 0.08
        assert (first(0, 0) == other).float().mean() < 0.01


def test_a_fork_does_not_depend_on_what_was_drawn() -> None:
    one, two = BatchRandom(keys(5), 1), BatchRandom(keys(5), 1)
    two.uniform(7)
    assert torch.equal(one.fork("x").uniform(), two.fork("x").uniform())


def test_uniform_numbers_are_even_and_below_one(draws: BatchRandom) -> None:
    found = draws.fork("uniform").uniform(2).numpy()
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() < 1
    distance = np.abs(np.sort(found[:, 0]) - np.arange(COUNT) / COUNT).max()
    assert distance < 1.95 / COUNT**0.5  # Kolmogorov-Smirnov, 0.1 %
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.03


def test_limits_shift_and_scale_uniform_numbers(draws: BatchRandom) -> None:
    found = draws.fork("limits").uniform(low=-3, high=2)
    assert found.min() >= -3
    assert found.max() < 2
    assert abs(float(found.mean()) + 0.5) < 0.05


def test_normal_numbers_are_normal(draws: BatchRandom) -> None:
    found = draws.fork("normal").normal(3).double()
    assert found.shape == (COUNT, 3)
    theirs = torch.special.ndtr(found).sort(dim=0).values
    distance = (theirs - (torch.arange(COUNT) / COUNT)[:, None]).abs().max()
    assert distance < 1.95 / COUNT**0.5
    assert (torch.corrcoef(found.T) - torch.eye(3)).abs().max() < 0.03


def test_integers_are_even_over_their_range(draws: BatchRandom) -> None:
    counts = draws.fork("integers").integers(-2, 7).flatten().add(2).bincount(minlength=9).double()
    expected = COUNT / 9
    assert ((counts - expected) ** 2 / expected).sum() < 26.1  # chi-squared with 8 degrees of freedom, 0.1 %


@pytest.mark.parametrize(("a", "b"), [(0.1, 0.1), (0.2, 0.2), (1.0, 1.0), (2.0, 3.0), (8.0, 0.5)])
def test_beta_numbers_are_distributed_as_scipys(a: float, b: float, draws: BatchRandom) -> None:
    beta = pytest.importorskip("scipy.stats").beta
    found = np.sort(draws.fork(f"beta/{a}").beta(a, b).double().numpy())
    distance = np.abs(beta.cdf(found, a, b) - np.arange(COUNT) / COUNT)
    inside = (found > 1e-6) & (found < 1 - 1e-6)  # float32 has too few numbers outside
    assert np.isfinite(found).all()
    assert distance[inside].max() < 1.95 / COUNT**0.5


def test_a_shared_draw_is_one_for_the_batch_in_any_order() -> None:
    forward = BatchRandom(keys(8), 0, 1).shared()
    assert len(forward) == 1
    assert torch.equal(forward.uniform(3), BatchRandom(keys(8).flip(0), 0, 1).shared().uniform(3))
    assert not torch.equal(BatchRandom(keys(8), 0, 1).shared().uniform(), BatchRandom(keys(7), 0, 1).shared().uniform())


def test_an_empty_batch_draws_nothing() -> None:
    empty = BatchRandom(keys(0), 0)
    assert empty.uniform(3).shape == (0, 3)
    assert empty.beta(1, 1).shape == (0,)
