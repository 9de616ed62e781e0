"""Confidence intervals of a proportion."""

from __future__ import annotations

import math
from statistics import NormalDist

from imgrec.utils.ranges import NonNegativeInt, OpenUnitInterval, PositiveInt, check_ranges


@check_ranges
def wilson_interval(correct: NonNegativeInt, total: PositiveInt, level: OpenUnitInterval = 0.95) -> tuple[float, float]:
    """Compute the confidence interval of a proportion, such as an accuracy, by Wilson's score method.

    Unlike ``p ± 1.96 · sd`` it is inside [0, 1], and its width is not 0 if all images are correct.

    Args:
        correct: Number of correct images, in [0, total].
        total: Number of images, at least 1.
        level: Confidence level, in (0, 1). Defaults to 0.95.

    Raises:
        UserError: If an argument is out of range.

    Source: Wilson, 1927, doi:10.1080/01621459.1927.10502953.

    Example:
        >>> low, high = wilson_interval(10, 10)
        >>> round(low, 4), high
        (0.7225, 1.0)
    """
    if correct > total:
        raise ValueError(f"correct: expected at most total ({total}), got {correct}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = correct / total
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    low = 0.0 if correct == 0 else centre - half  # exact at both ends, where rounding would miss by 1e-17
    high = 1.0 if correct == total else centre + half
    return low, high
