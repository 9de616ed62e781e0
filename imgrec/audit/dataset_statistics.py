"""What a data set is like: classes, sizes, and the mean and standard deviation of its channels."""

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
    """Counts and measures of the images that could be read.

    ``counts`` has a row for each class and a column for each split; ``sizes`` the most frequent (width, height) with
    their number; ``short_side`` and ``long_side`` the least, the median and the largest; ``mean`` and ``std`` are those
    of the training images, one value a channel in units of [0, 1], every image weighing the same.
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
        """The line for the YAML: the ``normalize`` of a model.

        A set without a coloured image has one channel.
        """
        mean, std = (", ".join(f"{value:.4f}" for value in values) for values in (self.mean, self.std))
        return f"normalize: {{mean: [{mean}], std: [{std}]}}"


def statistics(inventory: Inventory, records: NDArray[Any]) -> Statistics:
    """The statistics of measured images.

    Args:
        inventory: the images.
        records: one ``RECORD`` an image.
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
