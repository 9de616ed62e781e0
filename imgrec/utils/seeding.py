"""Seeds as a function of position, independent of history.

The seed of a generator is a hash of a position: (seed, epoch, step, rank) for a step, (seed, epoch, sample) for a
sample. A resumed run therefore draws the same values as an uninterrupted run. The number of loader workers has no
effect.
"""

from __future__ import annotations

import hashlib
import os

import torch


def position_seed(*position: int | str) -> int:
    """Return a 63-bit seed for a position. Equal positions have equal seeds, different positions unrelated ones.

    >>> position_seed(0, 1, "a") == position_seed(0, 1, "a"), position_seed(0, 1) == position_seed(1, 0)
    (True, False)
    """
    key = "\x1f".join(map(str, position)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def position_generator(*position: int | str) -> torch.Generator:
    """Return a CPU generator seeded by :func:`position_seed`."""
    return torch.Generator().manual_seed(position_seed(*position))


def run_seed() -> int:
    """Return the seed of this run: the last argument of ``seed_everything``, or 0."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def seed_defaults(*position: int | str) -> None:
    """Seed the default generators of torch by position. Dropout and initialization draw from them.

    ``torch.manual_seed`` seeds every device type and takes 112 microseconds. This function takes 2.
    """
    seed = position_seed(*position)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # `is_available` opens a library in each call
        torch.cuda.default_generators[torch.cuda.current_device()].manual_seed(seed)
