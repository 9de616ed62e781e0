from __future__ import annotations

import numpy as np
import pytest
from scipy.fft import dctn  # type: ignore[import-untyped]

from imgrec.audit.perceptual_hash import HASH_SIDE, perceptual_hash, similar_pairs


@pytest.mark.parametrize("radius", [0, 3, 7, 9])
def test_the_search_finds_the_same_pairs_as_a_comparison_of_all(radius: int) -> None:
    rng = np.random.default_rng(radius)
    bases = rng.integers(0, 2**63, 60, dtype=np.uint64)
    noisy = [b ^ sum(1 << int(i) for i in rng.choice(64, n, replace=False)) for b in map(int, bases) for n in range(11)]
    hashes = np.unique(np.asarray(noisy, np.uint64))
    all_bits = np.bitwise_count(hashes[:, None] ^ hashes[None])
    left, right = np.nonzero(np.triu(all_bits <= radius, 1))
    found = similar_pairs(hashes, radius)
    assert found[0].tolist() == left.tolist()
    assert found[1].tolist() == right.tolist()
    assert found[2].tolist() == all_bits[left, right].tolist()


def test_the_search_supports_hashes_with_equal_quarters() -> None:
    hashes = np.arange(3000, dtype=np.uint64)  # all share three quarters
    left, _, bits = similar_pairs(hashes, 1)
    assert len(left) == sum(n ^ (1 << i) < 3000 for n in range(3000) for i in range(12)) / 2
    assert set(bits.tolist()) == {1}


def test_the_search_ends_with_a_warning_at_the_maximum_number_of_pairs(caplog: pytest.LogCaptureFixture) -> None:
    hashes = np.arange(2000, dtype=np.uint64)
    left, right, bits = similar_pairs(hashes, 7, max_pairs=10_000)
    assert 10_000 < len(left) < 2_000_000
    assert (bits <= 7).all()
    assert (left < right).all()
    assert "too similar" in caplog.text


def test_an_empty_search_returns_no_pair() -> None:
    assert [len(part) for part in similar_pairs(np.empty(0, np.uint64), 7)] == [0, 0, 0]


def test_the_hash_contains_the_signs_of_the_lowest_frequencies() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HASH_SIDE, HASH_SIDE), dtype=np.uint8)
    spectrum = dctn(image.astype(float), type=2)
    rows, columns = np.mgrid[:HASH_SIDE, :HASH_SIDE]
    radii = np.sort((rows**2 + columns**2).ravel())[1:65]
    inside = (rows**2 + columns**2 < radii[-1]) & (rows + columns > 0)
    assert inside.sum() <= 64
    bits = bin(perceptual_hash(image)).count("1")
    positive = int((spectrum[inside] > 0).sum())
    assert positive <= bits <= positive + 64 - int(inside.sum())


def test_the_hash_of_a_negative_has_all_bits_flipped() -> None:
    image = np.random.default_rng(1).integers(0, 256, (HASH_SIDE, HASH_SIDE), dtype=np.uint8)
    assert perceptual_hash(image) ^ perceptual_hash(255 - image) == 2**64 - 1
