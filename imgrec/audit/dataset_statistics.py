"""Statistics of a data set: classes, sizes, and the mean and standard deviation of its channels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.audit.findings import Inventory
from imgrec.audit.image_statistics import GREY


@dataclass(frozen=True)
class Statistics:
    """Counts and measurements of the readable images.

    Args:
        splits: Names of the splits that have images.
        class_names: Names of the classes.
        counts: Number of images, ``(classes, splits)``.
        readable: Number of readable images.
        total: Number of images.
        grey: Number of readable images without colour.
        sizes: Most frequent (width, height), in pixels, each with its number of images.
        distinct_sizes: Number of different sizes.
        short_side: Minimum, median and maximum of the short side, in pixels.
        long_side: Minimum, median and maximum of the long side, in pixels.
        mean: Mean of each channel over the training images, in [0, 1], with the same weight for each image.
        std: Standard deviation of each channel over the training images, in the same way.
    """

    splits: tuple[str, ...]
    class_names: tuple[str, ...]
    counts: NDArray[np.int64]
    readable: int
    total: int
    grey: int
    sizes: tuple[tuple[tuple[int, int], int], ...]
    distinct_sizes: int
    short_side: tuple[int, int, int]
    long_side: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def normalize(self) -> str:
        """Line of YAML that sets ``normalize`` of a model. It has one channel if no image has colour."""
        mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (self.mean, self.std))
        return f"normalize: {{mean: [{mean}], std: [{std}]}}"


def dataset_statistics(inventory: Inventory, records: NDArray[Any]) -> Statistics:
    """Compute the statistics of measured images.

    Args:
        inventory: Audited images.
        records: One ``RECORD`` per image.
    """
    source = inventory.source
    words = tuple(word for word in ("train", "val", "test") if word in inventory.splits)
    split_of = np.asarray(inventory.splits)
    counts = np.stack([source.class_counts(inventory.rows[split_of == word]) for word in words], axis=1)
    seen = records[records["readable"]]
    sizes = Counter(zip(seen["width"].tolist(), seen["height"].tolist(), strict=True))
    training = records[records["readable"] & (split_of == "train")]
    channels = 3 if (seen["colour"] >= GREY).any() else 1
    mean = training["mean"].mean(0)[:channels] if len(training) else np.full(channels, np.nan)
    square = training["square"].mean(0)[:channels] if len(training) else np.full(channels, np.nan)
    return Statistics(
        splits=words,
        class_names=source.class_names,
        counts=counts,
        readable=len(seen),
        total=len(records),
        grey=int((seen["colour"] < GREY).sum()),
        sizes=tuple(sizes.most_common(5)),
        distinct_sizes=len(sizes),
        short_side=_range(np.minimum(seen["width"], seen["height"])),
        long_side=_range(np.maximum(seen["width"], seen["height"])),
        mean=tuple(mean.tolist()),
        std=tuple(np.sqrt(np.maximum(square - mean**2, 0)).tolist()),
    )


def _range(values: NDArray[np.int32]) -> tuple[int, int, int]:
    if not len(values):
        return 0, 0, 0
    return int(values.min()), int(np.median(values)), int(values.max())
