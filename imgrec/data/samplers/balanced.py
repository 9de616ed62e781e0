"""Samplers against class imbalance: the expected number of uses of each training image in an epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import Source
from imgrec.registry import Registry
from imgrec.utils.ranges import LeftOpenUnitInterval, NonNegativeFloat, check_ranges

Floats = NDArray[np.float64]


class Sampler(ABC):
    """Base class of samplers. A sampler computes the expected number of uses of each training image in an epoch.

    A subclass computes a factor for each class from its number of images::

        @SAMPLERS.register("rare_first")
        class RareFirst(Sampler):
            def factors(self, counts, images):
                return np.where(counts < 100, 2.0, 1.0)

    An image with several labels has the largest of their factors. An image without labels has the smallest factor.
    """

    fixed_length = True
    """True if an epoch has as many images as the training split. The factors are then scaled."""

    @abstractmethod
    def factors(self, counts: Floats, images: float) -> Floats:
        """Return a factor above 0 for each class.

        Shapes: ``(classes,)`` to ``(classes,)``.

        Args:
            counts: Number of training images of each class, above 0. Fractional if a source has a weight.
            images: Number of training images.
        """

    def repeats(self, source: Source, rows: NDArray[np.int64]) -> Floats:
        """Return the expected number of uses of each row in an epoch, ``(rows,)``, including those of the source.

        Args:
            source: Table of images.
            rows: Rows of the training split.
        """
        own = np.ones(len(rows)) if source.repeats is None else source.repeats[rows]
        targets = source.targets[rows]
        if source.multi_label:
            counts = own @ targets.astype(np.float64)
        else:
            counts = np.asarray(np.bincount(targets, own, len(source.class_names)), dtype=np.float64)
        present = counts > 0
        factors = np.where(present, self.factors(np.where(present, counts, 1.0), own.sum()), np.inf)
        if source.multi_label:
            largest = np.where(targets > 0.5, factors, -np.inf).max(1)
            found = own * np.where(np.isfinite(largest), largest, factors.min())
        else:
            found = own * factors[targets]
        return np.asarray(found * (own.sum() / found.sum()) if self.fixed_length else found)


SAMPLERS: Registry[Sampler] = Registry("sampler", "samplers")
"""Samplers of training images by their name in ``data.sampler``."""


@SAMPLERS.register("class_aware")
class ClassAware(Sampler):
    """Sampling of each class in proportion to its number of images to the power of ``1 - temperature``.

    0 keeps the distribution of the data, 0.5 is square-root sampling, and 1 uses all classes equally often. The length
    of an epoch is unchanged. Different images of frequent classes are left out in each epoch, and images of rare
    classes are repeated.

    See also `balanced` (temperature 1) and `repeat_factor`, which leaves no image out.

    Args:
        temperature: Exponent, at least 0. Above 1, rare classes are more frequent than common ones. Defaults to 0.5.

    Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis 2020, "Decoupling representation and classifier for
    long-tailed recognition", ICLR, arXiv 1910.09217, equation 1, with q = 1 - temperature.

    >>> ClassAware(0.5).factors(np.array([100.0, 25.0]), images=125)
    array([0.1, 0.2])
    """

    @check_ranges
    def __init__(self, temperature: NonNegativeFloat = 0.5) -> None:
        self.temperature = temperature

    def factors(self, counts: Floats, images: float) -> Floats:  # noqa: D102
        return np.asarray(counts**-self.temperature)


@SAMPLERS.register("balanced")
class Balanced(ClassAware):
    """Sampling of all classes equally often in each epoch, to within one image.

    The length of an epoch is unchanged. This is `class_aware` with temperature 1.

    Source: Shen, Lin and Huang 2016, "Relay backpropagation for effective learning of deep convolutional neural
    networks", ECCV, arXiv 1512.05830, section 3.3.

    Example::

        sampler: balanced
    """

    def __init__(self) -> None:
        super().__init__(temperature=1.0)


@SAMPLERS.register("repeat_factor")
class RepeatFactor(Sampler):
    """Repeat-factor sampling: each image once, and images of rare classes several times.

    An image of a class with the fraction f of the images is used ``max(1, sqrt(threshold / f))`` times. No image is
    left out, so that the epoch is longer. A fractional number is rounded randomly in each epoch.

    Args:
        threshold: Fraction of the images, in (0, 1], below which a class is rare. Defaults to 0.001.

    Source: Gupta, Dollar and Girshick 2019, "LVIS: a dataset for large vocabulary instance segmentation", CVPR,
    arXiv 1908.03195, appendix B.2.

    >>> RepeatFactor(0.5).factors(np.array([875.0, 125.0]), images=1000)
    array([1., 2.])
    """

    fixed_length = False

    @check_ranges
    def __init__(self, threshold: LeftOpenUnitInterval = 0.001) -> None:
        self.threshold = threshold

    def factors(self, counts: Floats, images: float) -> Floats:  # noqa: D102
        return np.maximum(1.0, np.sqrt(self.threshold * images / counts))


def strata(source: Source, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Return the class of each row for stratified sampling, or ``None`` for data with several labels."""
    return None if source.multi_label else source.targets[rows].astype(np.int64)
