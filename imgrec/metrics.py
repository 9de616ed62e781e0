"""The metrics of a classification, computed once an epoch, from the logits of all its images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import classification as tm

CALIBRATION_BINS = 15
_ROWS, _COLUMNS = 4096, 64
"""Of how many samples, and of how many classes, the probabilities are in memory at a time, in float64."""


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Everything that is reported of a set of predictions.

    A macro average is scikit-learn's, over the classes that occur or were predicted; one that occurs and was never
    predicted, or the other way round, counts as 0. A class without an image has no ROC curve and is left out of
    ``auroc``. ``acc_top5`` is there for more than five classes only.

    Args:
        logits: float ``(samples, num_classes)``.
        targets: int64 ``(samples,)``.

    Returns:
        ``acc``, ``acc_top5``, ``precision_macro``, ``recall_macro``, ``f1_macro``, ``auroc`` (one class against the
        rest), ``ece`` (15 equal bins, absolute differences) and ``nll`` (nats a sample), each in [0, 1] but for
        ``nll``. Empty where there is no sample.

    >>> import torch
    >>> classification_metrics(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))["acc"]
    1.0
    """
    samples, classes = logits.shape
    if samples == 0:
        return {}
    predicted = logits.argmax(dim=1)
    found = {"acc": (predicted == targets).double().mean()}
    if classes > 5:
        found["acc_top5"] = (logits.topk(5, dim=1).indices == targets[:, None]).any(dim=1).double().mean()
    counts = targets.bincount(minlength=classes)
    occurs = counts > 0
    known = occurs | (predicted.bincount(minlength=classes) > 0)
    for name, of_class in (
        ("precision_macro", tm.multiclass_precision(predicted, targets, classes, average="none")),
        ("recall_macro", tm.multiclass_recall(predicted, targets, classes, average="none")),
        ("f1_macro", tm.multiclass_f1_score(predicted, targets, classes, average="none")),
    ):
        found[name] = of_class[known].double().mean()
    both = (occurs & (counts < samples)).nonzero().flatten().tolist()
    areas = []
    for start in range(0, len(both), _COLUMNS):
        block = both[start : start + _COLUMNS]
        columns = torch.cat([part.double().softmax(dim=1)[:, block] for part in torch.split(logits, _ROWS)])
        areas += [tm.binary_auroc(columns[:, i], (targets == c).long()) for i, c in enumerate(block)]
    if areas:
        found["auroc"] = sum(areas[1:], areas[0]) / len(areas)
    parts = list(zip(torch.split(logits, _ROWS), torch.split(targets, _ROWS), strict=True))
    confidence = torch.cat([part.double().softmax(dim=1).amax(dim=1) for part, _ in parts])
    finite = bool(confidence.isfinite().all())  # else torchmetrics would take the probabilities for logits
    hits = (predicted == targets).long()
    found["ece"] = (
        tm.binary_calibration_error(confidence, hits, n_bins=CALIBRATION_BINS) if finite else confidence.sum()
    )
    found["nll"] = torch.cat([F.cross_entropy(part.double(), t, reduction="none") for part, t in parts]).mean()
    return {name: float(value) for name, value in found.items()}


def confusion_matrix(logits: Tensor, targets: Tensor) -> Tensor:
    """Counts of (true class, predicted class): int64 ``(num_classes, num_classes)``, a row a true class."""
    counts: Tensor = tm.multiclass_confusion_matrix(logits, targets, num_classes=logits.shape[1])
    return counts
