"""Per-image statistics of predictions, from which every metric of a classification is computed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.metrics.class_indices import class_indices
from imgrec.metrics.probabilities import log_sum_exp

NO_CLASS = -1
"""The predicted class of an image whose logits have no softmax."""

_ROWS = 4096
"""Images whose probabilities are in memory at a time, in float64."""


@dataclass(frozen=True, eq=False)
class PerImage:
    """Statistics of N predictions over C classes, each of shape ``(N,)``.

    Of equal logits, the class with the lower index ranks first. A row of logits that holds NaN or ``+inf``, or only
    ``-inf``, has no softmax. Its image has no predicted class, counts as wrong, and has NaN as ``nll`` and
    ``confidence``.

    Attributes:
        targets: int64 class indices.
        predicted: int64, the class with the largest logit, or :data:`NO_CLASS`.
        rank: int64, the number of classes that rank before the target. C if there is no softmax.
        nll: float64, the negative log-likelihood of the target, in nats.
        confidence: float64, the probability of the predicted class.
    """

    targets: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rank: NDArray[np.int64]
    nll: NDArray[np.float64]
    confidence: NDArray[np.float64]
    _logits: NDArray[np.floating]
    _largest: NDArray[np.float64]
    _log_sum: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self._logits.shape[1])

    @property
    def correct(self) -> NDArray[np.bool_]:
        """True for each image whose predicted class is the target."""
        return np.asarray(self.predicted == self.targets)

    @property
    def has_softmax(self) -> NDArray[np.bool_]:
        """True for each image whose logits have a softmax."""
        return np.asarray(self.predicted != NO_CLASS)

    def probabilities(self, classes: slice) -> NDArray[np.float64]:
        """Return the softmax of some classes: float64 ``(N, classes)``. NaN if there is no softmax."""
        with np.errstate(invalid="ignore"):  # inf - inf
            shifted = self._logits[:, classes].astype(np.float64) - self._largest[:, None]
        return np.asarray(np.exp(shifted - self._log_sum[:, None]))

    def array(self, name: str) -> Any:
        """Return an input of a metric by its name in :data:`imgrec.metrics.registry.INPUTS`."""
        if name == "images":
            return self
        if name == "probabilities":
            return self.probabilities(slice(None))
        return self._logits if name == "logits" else getattr(self, name)


def per_image(logits: ArrayLike, targets: ArrayLike) -> PerImage:
    """Compute the per-image statistics of logits ``(N, C)`` and class indices ``(N,)``.

    The softmax is computed in float64, for a block of images at a time.

    Raises:
        ValueError: If the shapes do not match, or a target is not a class.
    """
    values = np.asarray(logits)
    labels = class_indices(targets, values)
    count, classes = values.shape
    predicted, rank = np.empty(count, np.int64), np.empty(count, np.int64)
    largest, log_sum = np.empty(count), np.empty(count)
    nll, confidence = np.empty(count), np.empty(count)
    for part in _blocks(count):
        block, own = values[part].astype(np.float64), labels[part]
        rows = np.arange(len(own))
        largest[part] = block.max(axis=1)
        with np.errstate(invalid="ignore"):
            shifted = block - largest[part, None]
            log_sum[part] = log_sum_exp(shifted)
        logs = shifted - log_sum[part, None]
        finite = np.isfinite(largest[part])
        predicted[part] = np.where(finite, block.argmax(axis=1), NO_CLASS)
        nll[part] = -logs[rows, own]
        confidence[part] = np.where(finite, np.exp(logs.max(axis=1)), np.nan)
        truth = block[rows, own][:, None]
        before = (block > truth) | ((block == truth) & (np.arange(classes) < own[:, None]))
        rank[part] = np.where(finite, before.sum(axis=1), classes)
    return PerImage(labels, predicted, rank, nll, confidence, values, largest, log_sum)


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, min(start + _ROWS, count)) for start in range(0, count, _ROWS))
