"""Randomness as a function of position, never of history.

Every draw is made from a generator whose seed is a hash of where the draw stands: (seed, epoch, step, rank) for what a
step draws, (seed, epoch, sample) for what a sample draws. A run that was killed and resumed therefore draws what an
uninterrupted run draws, and so does a run with another number of loader workers.
"""

from __future__ import annotations

import hashlib
import os

import torch


def position_seed(*position: int | str) -> int:
    """A 63-bit seed for a position: equal positions give equal seeds, different ones unrelated seeds.

    >>> position_seed(0, 1, "a") == position_seed(0, 1, "a"), position_seed(0, 1) == position_seed(1, 0)
    (True, False)
    """
    key = "\x1f".join(map(str, position)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def position_generator(*position: int | str) -> torch.Generator:
    """A CPU generator seeded by :func:`position_seed`."""
    return torch.Generator().manual_seed(position_seed(*position))


def run_seed() -> int:
    """The seed of this run: what ``seed_everything`` was last given, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seed_defaults(*position: int | str) -> None:
    """Seed torch's default generators, which dropout and initialisation draw from, by position.

    ``torch.manual_seed`` visits every kind of device, at 112 microseconds a call; this one takes two.
    """
    seed = position_seed(*position)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # `is_available` opens a library each time
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)
