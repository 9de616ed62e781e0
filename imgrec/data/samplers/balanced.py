"""Imbalance: how often each training image is expected in an epoch, by how many its class has."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from imgrec.data.sources.base import Source
from imgrec.errors import UserError
from imgrec.registry import Registry

Floats = NDArray[np.float64]


class Sampler(ABC):
    """Says how often each training image is expected in an epoch; which ones it is, the training order draws.

    A subclass gives a factor for each class, by its share of the images::

        @SAMPLERS.register("rare_first")
        class RareFirst(Sampler):
            def factors(self, counts, images):
                return np.where(counts < 100, 2.0, 1.0)

    An image with several labels goes by the one with the largest factor, an image without any by the smallest.
    """

    fixed_length = True
    """Whether an epoch has as many images as there are training images: factors are then scaled to that."""

    @abstractmethod
    def factors(self, counts: Floats, images: float) -> Floats:
        """A factor above 0 for each class.

        Shapes: ``(classes,)`` to ``(classes,)``.

        Args:
            counts: how many training images have each class, above 0; not whole where a source has a weight.
            images: how many training images there are: the sum of the counts where each image has one class.
        """

    def repeats(self, source: Source, rows: NDArray[np.int64]) -> Floats:
        """How often each of these rows is expected in an epoch: ``(rows,)``, multiplied with the source's own repeats.

        Args:
            source: the table of images.
            rows: those of the training split.
        """
        own = np.ones(len(rows)) if source.repeats is None else source.repeats[rows]
        targets = source.targets[rows]
        if source.multi_label:
            counts = own @ targets.astype(np.float64)
        else:
            counts = np.asarray(np.bincount(targets, own, len(source.class_names)), dtype=np.float64)
        there = counts > 0
        factors = np.where(there, self.factors(np.where(there, counts, 1.0), own.sum()), np.inf)
        if source.multi_label:
            largest = np.where(targets > 0.5, factors, -np.inf).max(1)
            found = own * np.where(np.isfinite(largest), largest, factors.min())
        else:
            found = own * factors[targets]
        return np.asarray(found * (own.sum() / found.sum()) if self.fixed_length else found)


SAMPLERS: Registry[Sampler] = Registry("sampler", "samplers")
"""How training images are sampled, by name; for ``data.sampler``."""


@SAMPLERS.register("class_aware")
class ClassAware(Sampler):
    """Each class as often as its count to the power of ``1 - temperature`` says.

    An image is drawn in proportion to ``count ** -temperature`` of its class: 0 leaves the classes as they are, 0.5 is
    square-root sampling, 1 shows all classes equally often. An epoch has as many images as there are training images:
    those of frequent classes are left out now and then, others in each epoch, those of rare ones are repeated.

    Args:
        temperature: from 0, as the data is, to 1, balanced; above 1 rare classes come more often than frequent ones.

    Raises:
        UserError: a temperature below 0.

    Source: Kang, Xie, Rohrbach, Yan, Gordo, Feng and Kalantidis 2020, "Decoupling representation and classifier for
    long-tailed recognition", ICLR, arXiv 1910.09217, equation 1, with q = 1 - temperature.

    >>> ClassAware(0.5).factors(np.array([100.0, 25.0]), images=125)
    array([0.1, 0.2])
    """

    def __init__(self, temperature: float = 0.5) -> None:
        if not 0 <= temperature < float("inf"):
            raise UserError(f"temperature: must be 0 or more, got {temperature}.")
        self.temperature = temperature

    def factors(self, counts: Floats, images: float) -> Floats:  # noqa: D102
        return np.asarray(counts**-self.temperature)


@SAMPLERS.register("balanced")
class Balanced(ClassAware):
    """All classes equally often in each epoch, to within one image.

    An epoch has as many images as there are training images; see `class_aware`, of which this is temperature 1.

    Source: Shen, Lin and Huang 2016, "Relay backpropagation for effective learning of deep convolutional neural
    networks", ECCV, arXiv 1512.05830, section 3.3.

    Example::

        sampler: balanced
    """

    def __init__(self) -> None:
        super().__init__(temperature=1.0)


@SAMPLERS.register("repeat_factor")
class RepeatFactor(Sampler):
    """Each image once, and those of rare classes several times: repeat-factor sampling.

    A class that the fraction f of the images has is shown ``max(1, sqrt(threshold / f))`` times an epoch; nothing is
    left out, so that the epoch grows. An image expected 1.57 times comes once or twice, drawn for each epoch.

    Args:
        threshold: classes are rare that have less than this fraction of the images.

    Raises:
        UserError: a threshold that is no fraction.

    Source: Gupta, Dollar and Girshick 2019, "LVIS: a dataset for large vocabulary instance segmentation", CVPR,
    arXiv 1908.03195, appendix B.2.

    >>> RepeatFactor(0.5).factors(np.array([875.0, 125.0]), images=1000)
    array([1., 2.])
    """

    fixed_length = False

    def __init__(self, threshold: float = 0.001) -> None:
        if not 0 < threshold <= 1:
            raise UserError(f"threshold: a fraction of the images, above 0 and up to 1, got {threshold}.")
        self.threshold = threshold

    def factors(self, counts: Floats, images: float) -> Floats:  # noqa: D102
        return np.maximum(1.0, np.sqrt(self.threshold * images / counts))


def strata(source: Source, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """The class of each of these rows, within which the training order draws evenly; ``None`` with several labels."""
    return None if source.multi_label else source.targets[rows].astype(np.int64)
