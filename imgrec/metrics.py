"""The metrics of a classification, computed once an epoch, from the logits of all its images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import classification as tm

CALIBRATION_BINS = 15


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
    logits = logits.double()
    probabilities = logits.softmax(dim=1)
    found = {"acc": (logits.argmax(dim=1) == targets).double().mean()}
    if classes > 5:
        found["acc_top5"] = (logits.topk(5, dim=1).indices == targets[:, None]).any(dim=1).double().mean()
    counts = targets.bincount(minlength=classes)
    occurs = counts > 0
    known = occurs | (logits.argmax(dim=1).bincount(minlength=classes) > 0)
    for name, of_class in (
        ("precision_macro", tm.multiclass_precision(probabilities, targets, classes, average="none")),
        ("recall_macro", tm.multiclass_recall(probabilities, targets, classes, average="none")),
        ("f1_macro", tm.multiclass_f1_score(probabilities, targets, classes, average="none")),
    ):
        found[name] = of_class[known].double().mean()
    both = (occurs & (counts < samples)).nonzero().flatten().tolist()
    if both:
        areas = [tm.binary_auroc(probabilities[:, c], (targets == c).long()) for c in both]
        found["auroc"] = sum(areas[1:], areas[0]) / len(areas)
    found["ece"] = tm.multiclass_calibration_error(probabilities, targets, classes, n_bins=CALIBRATION_BINS)
    found["nll"] = F.cross_entropy(logits, targets)
    return {name: float(value) for name, value in found.items()}


def confusion_matrix(logits: Tensor, targets: Tensor) -> Tensor:
    """Counts of (true class, predicted class): int64 ``(num_classes, num_classes)``, a row a true class."""
    counts: Tensor = tm.multiclass_confusion_matrix(logits, targets, num_classes=logits.shape[1])
    return counts
