"""What W&B shows of predictions: a table with thumbnails, the confusion matrix, the curves."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.loggers.base import Images
from imgrec.metrics.calibration import reliability
from imgrec.metrics.confusion import confusion_matrix
from imgrec.metrics.roc import roc_curves
from imgrec.reports.figures import matrix_pixels
from imgrec.runs.predictions import Predictions

COLUMNS = ["image", "id", "true", "predicted", "confidence", "correct"]
MATRIX_CLASSES = 50  # W&B's own chart has a row for each pair of classes
_WORST = 5
_THUMBNAIL = 264  # pixels


def evaluation_media(predictions: Predictions, images: Images | None, rows: int) -> dict[str, Any]:
    """What is shown of one split, by name: ``predictions``, ``confusion_matrix``, ``roc``, ``reliability``."""
    kept = predictions.finite
    if not kept.any():  # a run that diverged says nothing that could be drawn
        return {}
    names, targets, said = predictions.class_names, predictions.targets[kept], predictions.predicted[kept]
    probabilities = predictions.probabilities[kept]
    shown = {
        "confusion_matrix": _matrix(targets, said, names),
        "roc": _roc(probabilities, targets, names),
        "reliability": _reliability(probabilities, targets),
    }
    if rows:
        shown["predictions"] = prediction_table(predictions, images, rows)
    return {name: value for name, value in shown.items() if value is not None}


def chosen_rows(predictions: Predictions, rows: int) -> NDArray[np.int64]:
    """Which images a table of ``rows`` shows: the most confidently wrong, then the least confidently right.

    Wrong ones take at most three quarters of the table, and what there is no right one for.
    """
    confidence = np.nan_to_num(predictions.probabilities.max(axis=1), nan=1.0)
    correct = predictions.correct
    wrong, right = np.flatnonzero(~correct), np.flatnonzero(correct)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    right = right[np.argsort(confidence[right], kind="stable")]
    room = max(rows - max(rows // 4, 1), rows - len(right)) if rows > 1 else rows
    wrong = wrong[:room]
    return np.concatenate([wrong, right[: rows - len(wrong)]])


def prediction_table(predictions: Predictions, images: Images | None, rows: int) -> Any:
    """A ``wandb.Table`` of at most ``rows`` images, with thumbnails where the data can give them."""
    import wandb

    chosen = chosen_rows(predictions, rows)
    ids = [predictions.ids[i] for i in chosen]
    pixels = images(ids) if images is not None else [None] * len(ids)
    names = predictions.class_names
    table = wandb.Table(columns=list[str | int](COLUMNS))
    for i, name, image in zip(chosen, ids, pixels, strict=True):
        target, said = int(predictions.targets[i]), int(predictions.predicted[i])
        confidence = float(predictions.probabilities[i, said])
        table.add_data(_thumbnail(image), name, names[target], names[said], confidence, said == target)
    return table


def _thumbnail(image: NDArray[np.uint8] | None) -> Any:
    if image is None:
        return None
    import wandb
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))  # never larger than it was
    return wandb.Image(picture)


def _matrix(targets: NDArray[np.int64], said: NDArray[np.int64], names: tuple[str, ...]) -> Any:
    import wandb

    if len(names) > MATRIX_CLASSES:
        caption = f"{len(names)} classes; rows are true, columns predicted; hits blue, errors orange"
        return wandb.Image(matrix_pixels(confusion_matrix(targets, said, len(names))), caption=caption)
    return wandb.plot.confusion_matrix(
        y_true=targets.tolist(), preds=said.tolist(), class_names=list(names), title="Confusion matrix"
    )


def _roc(probabilities: NDArray[np.float64], targets: NDArray[np.int64], names: tuple[str, ...]) -> Any:
    import wandb

    curves = roc_curves(probabilities, targets)
    if curves.macro is None:
        return None
    worst = sorted(curves.by_class, key=lambda i: curves.by_class[i].auc)[:_WORST]
    shown = {f"macro average, AUC {curves.macro.auc:.4f}": curves.macro}
    shown |= {f"{names[i]}, AUC {curves.by_class[i].auc:.4f}": curves.by_class[i] for i in worst}
    return wandb.plot.line_series(
        xs=[curve.fpr.tolist() for curve in shown.values()],
        ys=[curve.tpr.tolist() for curve in shown.values()],
        keys=list(shown),
        title="ROC, one class against the rest; the lowest classes",
        xname="false positive rate",
    )


def _reliability(probabilities: NDArray[np.float64], targets: NDArray[np.int64]) -> Any:
    import wandb

    bins = reliability(probabilities, targets)
    filled = bins.count > 0
    confidence = bins.confidence[filled].tolist()
    return wandb.plot.line_series(
        xs=[confidence, confidence],
        ys=[bins.accuracy[filled].tolist(), confidence],
        keys=["accuracy", "perfectly calibrated"],
        title=f"Reliability, ECE {bins.expected_calibration_error:.4f}",
        xname="confidence",
    )
