"""Sections of the report about predictions: confusion matrix, diagrams, classes, most confident errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.metrics.calibration import reliability
from imgrec.metrics.confusion import PerClass, confusion_matrix, most_confused, per_class_table
from imgrec.metrics.roc import RocCurves, roc_curves
from imgrec.reports.figures import matrix_image, reliability_drawing, roc_drawing
from imgrec.reports.html import ImageLoader, is_tiny, thumbnail
from imgrec.runs.predictions import Predictions

MATRIX_CLASSES = 30  # with more, the matrix is an image
WRONG_SHOWN = 21  # three rows of a wide page

_COLUMNS = ["Class", "Images", "Precision", "Recall", "F1", "AUROC", "Most frequent error"]


def prediction_sections(
    predictions: Predictions,
    images: ImageLoader | None,
) -> dict[str, Any]:
    """Return the values of the template sections on the predictions of one split.

    Args:
        predictions: At least one prediction, with finite logits.
        images: Function that returns the images of sample ids, or ``None`` for no thumbnails.
    """
    names = predictions.class_names
    matrix = confusion_matrix(predictions.targets, predictions.predicted, len(names))
    curves = roc_curves(predictions.probabilities, predictions.targets)
    wrong = _wrong(predictions, images)
    roc = roc_drawing(curves, names)
    bins = reliability(predictions.probabilities, predictions.targets)
    notes = []
    if curves.absent:
        absent = ", ".join(names[i] for i in curves.absent[:10])
        more = f" and {len(curves.absent) - 10} more" if len(curves.absent) > 10 else ""
        notes.append(f"Classes without a ROC curve, because no image or every image belongs to them: {absent}{more}.")
    return {
        "matrix": _matrix(matrix, names),
        "confused": [
            {"true": names[true], "predicted": names[predicted], "count": count}
            for true, predicted, count in most_confused(matrix, 12 if len(names) > MATRIX_CLASSES else 8)
        ],
        "diagrams": [d for d in (roc, reliability_drawing(bins)) if d is not None],
        "diagram_notes": notes,
        "class_columns": _COLUMNS,
        "classes": _classes(matrix, per_class_table(matrix), curves, names),
        "wrong": wrong,
        "with_images": images is not None,
        "wrong_note": _wrong_note(predictions, len(wrong), images is not None),
    }


def _matrix(matrix: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, Any]:
    if len(names) > MATRIX_CLASSES:
        return {"names": names, "rows": [], "image": matrix_image(matrix)}
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    rows = []
    for i, name in enumerate(names):
        cells = []
        for j in range(len(names)):
            is_correct = i == j
            alpha = 0.08 + 0.87 * float(share[i, j]) if is_correct else 0.12 + 0.8 * float(share[i, j]) ** 0.5
            cells.append(
                {
                    "count": int(matrix[i, j]),
                    "style": ("hit" if is_correct else "miss") + (" strong" if alpha > 0.6 else ""),
                    "alpha": f"{alpha:.2f}",
                    "title": f"{name} classified as {names[j]}: {100 * share[i, j]:.1f} % of {int(matrix[i].sum())}",
                }
            )
        rows.append({"name": name, "cells": cells})
    return {"names": names, "rows": rows, "turned": max(map(len, names)) > 4, "image": ""}


def _classes(
    matrix: NDArray[np.int64], table: PerClass, curves: RocCurves, names: tuple[str, ...]
) -> list[dict[str, Any]]:
    rows = []
    for i, name in enumerate(names):
        area = curves.by_class[i].auc if i in curves.by_class else float("nan")
        figures = {"precision": table.precision[i], "recall": table.recall[i], "f1": table.f1[i], "auroc": area}
        cells = [{"key": "support", "raw": str(table.support[i]), "text": f"{table.support[i]:,}"}]
        cells += [
            {"key": key, "raw": "" if np.isnan(value) else repr(float(value)), "text": _number(float(value))}
            for key, value in figures.items()
        ]
        errors = matrix[i].copy()
        errors[i] = 0
        other = int(errors.argmax())
        frequent = f"{names[other]} ({errors[other]})" if errors[other] else ""
        rows.append({"name": name, "cells": cells, "most_frequent_error": frequent})
    return rows


def _number(value: float) -> str:
    return "—" if np.isnan(value) else f"{value:.4f}"


def _wrong(predictions: Predictions, images: ImageLoader | None) -> list[dict[str, Any]]:
    confidence = predictions.probabilities.max(axis=1)
    wrong = np.flatnonzero(predictions.predicted != predictions.targets)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:WRONG_SHOWN]
    ids = [predictions.ids[i] for i in worst]
    found = list(images(ids)) if images is not None and ids else [None] * len(ids)
    if len(found) != len(ids):
        raise ValueError(f"images: expected {len(ids)} images, got {len(found)}")
    names = predictions.class_names
    return [
        {
            "id": sample,
            "true": names[int(predictions.targets[i])],
            "predicted": names[int(predictions.predicted[i])],
            "probability": f"{100 * confidence[i]:.1f} %",
            "uri": "" if image is None else thumbnail(image),
            "tiny": image is not None and is_tiny(image),
        }
        for i, sample, image in zip(worst, ids, found, strict=True)
    ]


def _wrong_note(predictions: Predictions, shown: int, with_images: bool) -> str:
    total = int((predictions.predicted != predictions.targets).sum())
    count = f"{shown} of {total:,} errors" if shown < total else f"All {total:,} errors"
    return f"{count}: true class → predicted class (its probability)." + (
        "" if with_images else " The images were not available when the report was written."
    )
