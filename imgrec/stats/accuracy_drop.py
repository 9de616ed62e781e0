"""How much accuracy a change of a model costs, on images that both versions have seen: NumPy in, NumPy out."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike

from imgrec.stats.paired import paired_bootstrap


@dataclass(frozen=True)
class AccuracyDrop:
    """The accuracy of a model before and after a change, in percent, and their difference in points.

    ``low`` and ``high`` are the paired bootstrap interval of ``drop`` at ``level``; a negative drop is a gain.
    """

    images: int
    before: float
    after: float
    drop: float
    low: float
    high: float
    level: float

    def to_dict(self) -> dict[str, float]:
        """Plain numbers, rounded to what they can tell."""
        return {k: v if isinstance(v, int) else round(v, 4) for k, v in asdict(self).items()}

    def __str__(self) -> str:
        return (
            f"{self.drop:z.2f} points lost on {self.images} images, {self.before:.2f} to {self.after:.2f} % "
            f"({100 * self.level:g} % interval {self.low:.2f} to {self.high:.2f})"
        )


def accuracy_drop(before: ArrayLike, after: ArrayLike, level: float = 0.95) -> AccuracyDrop:
    """What a change costs.

    Shapes: ``before`` and ``after`` booleans ``(N,)``, whether each image was named correctly.

    Args:
        before: what the model got right before.
        after: what it gets right now.
        level: the confidence of the interval, between 0 and 1.

    Raises:
        ValueError: see :func:`imgrec.stats.paired.paired_bootstrap`.

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


def images_to_be_sure(max_drop: float, level: float = 0.95) -> int:
    """How many images it takes at least to be sure of a drop of at most ``max_drop`` points.

    So many that, were the drop that large, one of them at least would show it with probability ``level``.

    >>> images_to_be_sure(0.5)
    598
    """
    return math.ceil(math.log(1 - level) / math.log(1 - max_drop / 100)) if max_drop > 0 else 0
