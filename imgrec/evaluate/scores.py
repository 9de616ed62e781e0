"""The figures of a classification, recomputed from what was predicted for each image."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from imgrec.evaluate.calibration import checked, expected_calibration_error
from imgrec.evaluate.confusion import confusion_matrix, per_class_table
from imgrec.evaluate.curves import roc_curves
from imgrec.evaluate.probabilities import log_softmax


def classification_scores(logits: ArrayLike, targets: ArrayLike) -> dict[str, float]:
    """Every figure of a classification by the name it has in metrics.csv after ``val/`` or ``test/``.

    Keys: ``acc``, ``acc_top5`` (only with more than five classes), ``precision_macro``, ``recall_macro``, ``f1_macro``,
    ``auroc`` (the mean over the classes that can have one, else NaN), ``ece`` (15 bins) and ``nll``, in nats.

    Shapes: ``logits`` ``(N, C)``, ``targets`` class indices ``(N,)``, N at least 1.

    Raises:
        ValueError: the shapes do not belong together, there is no sample, or a row of logits has no softmax.
    """
    logs = log_softmax(logits)
    probabilities, labels = checked(np.exp(logs), targets)
    if not len(labels):
        raise ValueError("no sample to score")
    classes = probabilities.shape[1]
    predicted = np.asarray(logits).argmax(axis=1)
    precision, recall, f1 = per_class_table(confusion_matrix(labels, predicted, classes)).macro
    macro = roc_curves(probabilities, labels).macro
    scores = {"acc": float((predicted == labels).mean())}
    if classes > 5:
        scores["acc_top5"] = top_k_accuracy(logits, labels, 5)
    return scores | {
        "precision_macro": precision,
        "recall_macro": recall,
        "f1_macro": f1,
        "auroc": macro.auc if macro else float("nan"),
        "ece": expected_calibration_error(probabilities, labels),
        "nll": float(-logs[np.arange(len(labels)), labels].mean()),
    }


def top_k_accuracy(logits: ArrayLike, targets: ArrayLike, k: int) -> float:
    """The fraction of samples whose class is among the ``k`` largest logits; of equal logits the first class leads.

    >>> top_k_accuracy([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]], [1, 2], k=2)
    0.5
    """
    values, labels = np.asarray(logits), np.asarray(targets)
    own = np.take_along_axis(values, labels[:, None], axis=1)
    before = np.arange(values.shape[1]) < labels[:, None]
    rank = ((values > own) | ((values == own) & before)).sum(axis=1)
    return float((rank < k).mean())
