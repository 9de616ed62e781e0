"""W&B media of predictions: table with thumbnails, confusion matrix, curves."""

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
MATRIX_CLASSES = 50  # the chart of W&B has a row per pair of classes
_WORST = 5
_THUMBNAIL = 264  # pixels


def evaluation_media(predictions: Predictions, images: Images | None, rows: int) -> dict[str, Any]:
    """Return the media of one split by name: ``predictions``, ``confusion_matrix``, ``roc``, ``reliability``."""
    kept = predictions.finite
    if not kept.any():  # a diverged run
        return {}
    names, targets, predicted = predictions.class_names, predictions.targets[kept], predictions.predicted[kept]
    probabilities = predictions.probabilities[kept]
    shown = {
        "confusion_matrix": _matrix(targets, predicted, names),
        "roc": _roc(probabilities, targets, names),
        "reliability": _reliability(probabilities, targets),
    }
    if rows:
        shown["predictions"] = prediction_table(predictions, images, rows)
    return {name: value for name, value in shown.items() if value is not None}


def select_rows(predictions: Predictions, rows: int) -> NDArray[np.int64]:
    """Return the rows of the images in a table: the most confident errors, then the least confident hits.

    At most three quarters of the rows are errors, unless there are too few hits.
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
    """Return a ``wandb.Table`` of at most ``rows`` images, with thumbnails if the data provides images."""
    import wandb

    selected = select_rows(predictions, rows)
    ids = [predictions.ids[i] for i in selected]
    pixels = images(ids) if images is not None else [None] * len(ids)
    names = predictions.class_names
    table = wandb.Table(columns=list[str | int](COLUMNS))
    for i, name, image in zip(selected, ids, pixels, strict=True):
        target, predicted = int(predictions.targets[i]), int(predictions.predicted[i])
        confidence = float(predictions.probabilities[i, predicted])
        table.add_data(_thumbnail(image), name, names[target], names[predicted], confidence, predicted == target)
    return table


def _thumbnail(image: NDArray[np.uint8] | None) -> Any:
    if image is None:
        return None
    import wandb
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))  # it does not enlarge
    return wandb.Image(picture)


def _matrix(targets: NDArray[np.int64], predicted: NDArray[np.int64], names: tuple[str, ...]) -> Any:
    import wandb

    if len(names) > MATRIX_CLASSES:
        caption = f"{len(names)} classes. Rows are true, columns predicted. Hits blue, errors orange"
        return wandb.Image(matrix_pixels(confusion_matrix(targets, predicted, len(names))), caption=caption)
    return wandb.plot.confusion_matrix(
        y_true=targets.tolist(), preds=predicted.tolist(), class_names=list(names), title="Confusion matrix"
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
        title="ROC, one class against the rest (lowest classes)",
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
