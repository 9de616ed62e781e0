from __future__ import annotations

import hashlib
import math
import subprocess
import sys

import pytest
import torch

from imgrec.utils.seeding import position_generator, position_seed, run_seed, seed_defaults


def test_a_seed_is_a_hash_of_the_position_alone() -> None:
    digest = hashlib.blake2b(b"0\x1f12\x1ftrain/a.png", digest_size=8).digest()
    assert position_seed(0, 12, "train/a.png") == int.from_bytes(digest, "little") // 2
    assert 0 <= position_seed() < 2**63


def test_another_process_gives_the_same_seed() -> None:
    code = "from imgrec.utils.seeding import position_seed; print(position_seed(3, 'step', 7))"
    message = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(message.stdout) == position_seed(3, "step", 7)


def test_neighbouring_positions_are_unrelated() -> None:
    places = [(seed, epoch, step) for seed in range(10) for epoch in range(10) for step in range(100)]
    seeds = [position_seed(*place) for place in places]
    assert len(set(seeds)) == len(seeds)
    for bit in range(63):
        ones = sum(seed >> bit & 1 for seed in seeds)
        assert abs(ones - 5000) < 5 * math.sqrt(10_000) / 2
    assert position_seed(1, 23) != position_seed(12, 3) != position_seed(123)


def test_draws_of_neighbouring_generators_are_unrelated() -> None:
    draws = torch.stack([torch.rand(50, generator=position_generator(0, i)) for i in range(200)])
    assert abs(float(draws.mean()) - 0.5) < 0.02
    correlation = torch.corrcoef(draws)
    off = correlation[~torch.eye(200, dtype=torch.bool)]
    assert abs(float(off.mean())) < 0.01
    assert abs(float(off.std()) - 1 / math.sqrt(49)) < 0.01


def test_a_generator_depends_on_nothing_drawn_before() -> None:
    first = torch.rand(5, generator=position_generator(1, "x"))
    torch.rand(1000)
    assert torch.equal(first, torch.rand(5, generator=position_generator(1, "x")))


def test_the_default_generator_is_seeded_as_torch_would_seed_it() -> None:
    seed_defaults(0, "step", 3)
    drawn = torch.rand(4), torch.nn.functional.dropout(torch.ones(50)), torch.randperm(9)
    torch.manual_seed(position_seed(0, "step", 3))
    again = torch.rand(4), torch.nn.functional.dropout(torch.ones(50)), torch.randperm(9)
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))


def test_the_seed_of_the_run_is_lightnings(monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_lightning as pl

    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert run_seed() == 5
    pl.seed_everything(11, verbose=False)
    assert run_seed() == 11
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert run_seed() == 0
