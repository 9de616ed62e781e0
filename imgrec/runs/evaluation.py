"""What a network in any runtime says of a split, written as a run's own predictions and figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgrec.metrics import classification_scores
from imgrec.runs.data import refuse_other_images
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary
from imgrec.types import Batch

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Images in [0, 1], ``(N, C, H, W)``, to logits ``(N, num_classes)``; see :mod:`imgrec.export.runtimes.base`."""


def predict_split(data: Any, split: Literal["val", "test"], network: Network) -> Predictions | None:
    """What ``network`` says of each image of a split, in the order of their ids; ``None`` where there is no image.

    Args:
        data: a data module that is set up; see :func:`imgrec.runs.data.data_of`.
        split: ``val`` or ``test``.
        network: images to logits.
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
    """The images of a batch as a runtime takes them: float32 in [0, 1]."""
    images = batch.images.float()
    whole = not batch.images.is_floating_point()
    found: NDArray[np.float32] = (images / 255 if whole else images).numpy()
    return found


def keep_predictions(run: RunFolder, split: Literal["val", "test"], predictions: Predictions) -> dict[str, float]:
    """Write a split's predictions into a run folder, and their figures into its summary; give the latter."""
    refuse_other_images(run, split, predictions)
    write_predictions(run.predictions_file(split), predictions)
    plain = figures_of(predictions)
    others = dict.fromkeys(run.summary.get(split) or {})  # of what was evaluated before, the loss say
    update_summary(run, {split: {**others, **plain}})
    return plain


def figures_of(predictions: Predictions) -> dict[str, float]:
    """Return the metrics of some predictions by name."""
    return classification_scores(predictions.logits, predictions.targets)
