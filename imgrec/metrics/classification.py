"""The metrics of a classification for tensors, computed once an epoch from the logits of all its images."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from imgrec.metrics import confusion
from imgrec.metrics.calibration import CALIBRATION_BINS
from imgrec.metrics.scores import classification_scores

__all__ = ["CALIBRATION_BINS", "classification_metrics", "confusion_matrix"]


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Compute what :func:`imgrec.metrics.scores.classification_scores` computes, from tensors.

    Args:
        logits: float ``(samples, num_classes)``, on any device.
        targets: int64 ``(samples,)``.

    Returns:
        The metrics by name: ``acc``, ``acc_top5``, ``f1_macro``, ... Empty if there is no sample.

    >>> import torch
    >>> classification_metrics(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))["acc"]
    1.0
    """
    return classification_scores(_numpy(logits), targets.detach().cpu().numpy())


def confusion_matrix(logits: Tensor, targets: Tensor) -> Tensor:
    """Count (true class, predicted class): int64 ``(num_classes, num_classes)``, one row per true class."""
    predicted = _numpy(logits).argmax(axis=1)
    counts = confusion.confusion_matrix(targets.detach().cpu().numpy(), predicted, logits.shape[1])
    return torch.from_numpy(counts)


def _numpy(logits: Tensor) -> NDArray[Any]:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    found: NDArray[Any] = wide.detach().cpu().numpy()
    return found
