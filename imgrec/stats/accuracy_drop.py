"""Loss of accuracy after a change of a model, on images that both versions classified."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from imgrec.stats.paired import paired_bootstrap
from imgrec.utils.ranges import OpenUnitInterval, check_ranges


@dataclass(frozen=True)
class AccuracyDrop:
    """Accuracy of a model before and after a change, in percent, and their difference in points.

    Attributes:
        images: Number of images.
        before: Accuracy before the change, in percent.
        after: Accuracy after the change, in percent.
        drop: ``before - after``, in points. A negative drop is a gain.
        low: Lower end of the paired bootstrap interval of ``drop``.
        high: Upper end of this interval.
        level: Confidence level of the interval.
    """

    images: int
    before: float
    after: float
    drop: float
    low: float
    high: float
    level: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields as numbers, rounded to four digits."""
        return {k: v if isinstance(v, int) else round(v, 4) for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"{self.drop:z.2f} points lost on {self.images} images, {self.before:.2f} to {self.after:.2f} % "
            f"({100 * self.level:g} % interval {self.low:.2f} to {self.high:.2f})"
        )


@check_ranges
def accuracy_drop(before: ArrayLike, after: ArrayLike, level: OpenUnitInterval = 0.95) -> AccuracyDrop:
    """Compute the loss of accuracy after a change, with its paired bootstrap interval.

    Args:
        before: Booleans of shape ``(N,)``: True if the model classified the image correctly before the change.
        after: Booleans of shape ``(N,)`` for the same images after the change.
        level: Confidence level, in (0, 1). Defaults to 0.95.

    Raises:
        ValueError: If the shapes differ, there is no image, or the values are not booleans.

    Example:
        >>> accuracy_drop([True, True, True, False], [True, True, False, False]).drop
        25.0
    """
    low, high = paired_bootstrap(before, after, level=level)
    first, second = np.asarray(before), np.asarray(after)
    count = len(first)
    lost = int(first.sum()) - int(second.sum())
    return AccuracyDrop(
        count,
        100 * int(first.sum()) / count,
        100 * int(second.sum()) / count,
        100 * lost / count,
        100 * low,
        100 * high,
        level,
    )


@check_ranges
def min_images_for_drop(max_drop: float, level: OpenUnitInterval = 0.95) -> int:
    """Return the minimum number of images that can exclude a drop of ``max_drop`` points.

    With this number, a drop of ``max_drop`` points changes at least one image with probability ``level``.

    Args:
        max_drop: Drop in points. 0 and negative values require no image.
        level: Confidence level, in (0, 1). Defaults to 0.95.

    Example:
        >>> min_images_for_drop(0.5)
        598
    """
    return math.ceil(math.log(1 - level) / math.log(1 - max_drop / 100)) if max_drop > 0 else 0
