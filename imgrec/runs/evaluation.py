"""Predictions of a model in any runtime on a split, and their storage in a run folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgrec.metrics import classification_scores
from imgrec.runs.data import check_run_images
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary
from imgrec.types import Batch

LogitsFunction = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Function from images in [0, 1] of shape ``(N, C, H, W)`` to logits of shape ``(N, num_classes)``."""


def predict_split(data: Any, split: Literal["val", "test"], network: LogitsFunction) -> Predictions | None:
    """Predict all images of a split.

    Args:
        data: Data module that is set up, as by :func:`imgrec.runs.data.load_run_data`.
        split: ``val`` or ``test``.
        network: Function from images to logits.

    Returns:
        Predictions sorted by id, or ``None`` if the split has no image.
    """
    if not data.split_sizes().get(split):
        return None
    loader = data.val_dataloader() if split == "val" else data.test_dataloader()
    ids: list[str] = []
    targets: list[NDArray[np.int64]] = []
    logits: list[NDArray[np.float32]] = []
    for batch in loader:
        if len(batch):
            ids += batch.ids
            targets.append(batch.targets.numpy())
            logits.append(network(unit_images(batch)))
    if not ids:
        return None
    order = sorted(range(len(ids)), key=ids.__getitem__)
    found = np.concatenate(logits)[order]
    return Predictions([ids[i] for i in order], np.concatenate(targets)[order], found, data.facts.class_names)


def unit_images(batch: Batch) -> NDArray[np.float32]:
    """Return the images of a batch as float32 in [0, 1]."""
    images = batch.images.float()
    is_integer = not batch.images.is_floating_point()
    found: NDArray[np.float32] = (images / 255 if is_integer else images).numpy()
    return found


def record_predictions(run: RunFolder, split: Literal["val", "test"], predictions: Predictions) -> dict[str, float]:
    """Write the predictions of a split to a run folder and their metrics to its summary, and return the metrics."""
    check_run_images(run, split, predictions)
    write_predictions(run.predictions_file(split), predictions)
    metrics = compute_metrics(predictions)
    outdated = dict.fromkeys(run.summary.get(split) or {})  # for example the loss of the previous predictions
    update_summary(run, {split: {**outdated, **metrics}})
    return metrics


def compute_metrics(predictions: Predictions) -> dict[str, float]:
    """Compute the metrics of predictions by name."""
    return classification_scores(predictions.logits, predictions.targets)
