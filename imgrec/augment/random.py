"""Random numbers for a batch on any device, as a function of the sample and the position in training."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from imgrec.utils.seeding import position_seed

_STEP = -7046029254386353131  # 0x9E3779B97F4A7C15, the odd number nearest to 2^64 over the golden ratio
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB
_TRIES = 16


class BatchRandom:
    """Counter-based random numbers: one row for each sample, a function of the key of the sample and a position.

    Number ``n`` of a sample is a hash of its key, the position and ``n``. It has the same bits on every device, in a
    batch of any size, in any process and after a resume. No generator state exists.

    Every call on one object returns new numbers. :meth:`fork` returns an independent stream, so that an additional call
    in one transform does not change the draws of another.

    Args:
        keys: int64 ``(batch,)``: a hash of the id of each sample.
        *position: Position in training: the seed and the epoch.

    Source: Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators", 10.1145/2660193.2660195 (the
    hash, SplitMix64); Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", 10.1145/2063384.2063405
    (counter-based generators).

    Example:
        >>> keys = torch.tensor([7, 8])
        >>> both = BatchRandom(keys, 0, 3).fork("hflip").uniform()
        >>> torch.equal(both[1:], BatchRandom(keys[1:], 0, 3).fork("hflip").uniform())
        True
    """

    def __init__(self, keys: Tensor, *position: int | str) -> None:
        self.keys = keys
        self._count = 0
        if position:
            self.keys = _hash(keys + position_seed("draws", *position))

    def __len__(self) -> int:
        return self.keys.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the keys and of the numbers."""
        return self.keys.device

    def fork(self, name: int | str) -> Self:
        """Return an independent stream with the same keys. The same name gives the same stream."""
        return type(self)(self.keys, "fork", name)

    def shared(self) -> Self:
        """Return one row for the whole batch, a function of the set of its samples, for common draws."""
        return type(self)(self.keys.sum(dim=0, keepdim=True), "shared")

    def bits(self, count: int = 1) -> Tensor:
        """Return 64 random bits per number: int64 ``(batch, count)``."""
        counters = torch.arange(self._count + 1, self._count + 1 + count, device=self.device)
        self._count += count
        return _hash(self.keys[:, None] + counters.mul_(_STEP))

    def uniform(self, count: int = 1, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Return uniform numbers in ``[low, high)``: float32 ``(batch, count)``."""
        unit = _unit(_shift(self.bits(count), 40))
        return unit if (low, high) == (0.0, 1.0) else unit.mul_(high - low).add_(low)

    def chance(self, p: float) -> Tensor:
        """Return True with probability ``p`` for each sample: bool ``(batch,)``."""
        return self.uniform()[:, 0] < p

    def normal(self, count: int = 1) -> Tensor:
        """Return standard normal numbers, at most 5.8 in absolute value: float32 ``(batch, count)``."""
        half = (count + 1) // 2
        bits = self.bits(half)
        radius = _unit(_shift(bits, 40)).neg_().add_(1.0).log_().mul_(-2.0).sqrt_()
        angle = _unit(bits.bitwise_and_((1 << 24) - 1)).mul_(2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count]

    def integers(self, low: int, high: int, count: int = 1) -> Tensor:
        """Return uniform integers from ``low`` to ``high - 1``: int64 ``(batch, count)``."""
        return _shift(self.bits(count), 1).remainder_(high - low).add_(low)

    def beta(self, a: float, b: float) -> Tensor:
        """Return numbers of the beta distribution with parameters ``a`` and ``b`` above 0: float32 ``(batch,)``."""
        return torch.sigmoid(self._log_gamma(a) - self._log_gamma(b))

    def _log_gamma(self, shape: float) -> Tensor:
        """Return the logarithm of gamma variables, by rejection (Marsaglia and Tsang 2000, 10.1145/358407.358414).

        All attempts are computed at once. One fails in fewer than 1 of 20 cases, all of them in fewer than 1 of 10^20.
        """
        d = (shape if shape >= 1 else shape + 1) - 1 / 3
        x = self.normal(_TRIES)
        u = 1 - self.uniform(_TRIES)
        v = (1 + x / math.sqrt(9 * d)).clamp_min(1e-6) ** 3
        accepted = (v > 1e-17) & (u.log() < 0.5 * x**2 + d * (1 - v + v.log()))
        first = accepted.to(torch.uint8).argmax(dim=1, keepdim=True)
        log_gamma = math.log(d) + v.gather(1, first)[:, 0].log()
        if shape >= 1:
            return log_gamma
        return log_gamma + (1 - self.uniform()[:, 0]).log() / shape


def _shift(bits: Tensor, by: int) -> Tensor:
    """Shift the bits to the right and fill with zeros. The shift of torch keeps the sign."""
    return bits.bitwise_right_shift(by).bitwise_and_((1 << (64 - by)) - 1)


def _hash(bits: Tensor) -> Tensor:
    bits = bits.bitwise_xor(_shift(bits, 30)).mul_(_FIRST)
    bits = bits.bitwise_xor_(_shift(bits, 27)).mul_(_SECOND)
    return bits.bitwise_xor_(_shift(bits, 31))


def _unit(bits: Tensor) -> Tensor:
    """Return 24 bits as a float32 in [0, 1). The conversion is exact, so that all devices agree."""
    return bits.to(torch.float32).mul_(2.0**-24)
