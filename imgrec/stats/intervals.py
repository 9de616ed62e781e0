"""How far a figure that was measured on a sample may lie from the truth."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a proportion, an accuracy say, by Wilson's score method.

    Unlike the usual ``p ± 1.96 · sd`` it stays within [0, 1] and has width where everything was right.

    Args:
        correct: how many were right.
        total: of how many; at least 1.
        level: the confidence, between 0 and 1.

    Raises:
        ValueError: ``correct`` lies outside 0 to ``total``, there is no sample, or ``level`` is no probability.

    Source: Wilson, 1927, doi:10.1080/01621459.1927.10502953.

    >>> low, high = wilson_interval(10, 10)
    >>> round(low, 4), high
    (0.7225, 1.0)
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"expected 0 <= correct <= total and a total of 1 or more, got {correct} of {total}")
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if correct == 0 else centre - half  # exact at both ends, where rounding would miss by 1e-17
    high = 1.0 if correct == total else centre + half
    return low, high
