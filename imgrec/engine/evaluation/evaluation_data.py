"""Batches and predictions of all images of a labelled set, for the evaluation of a trained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor
from torch.utils.data import SequentialSampler

from imgrec.augment import build_transforms
from imgrec.data.bad_images import usable_cores
from imgrec.data.decoding.image import BadImage
from imgrec.data.loading import BatchLoader, EvaluationSet
from imgrec.data.sources.base import Source
from imgrec.engine.evaluation.evaluated_model import EvaluatedModel
from imgrec.errors import UserError
from imgrec.runs.predictions import Predictions
from imgrec.types import DataFacts

_PROGRESS_SECONDS = 5.0
_MAX_WORKERS = 8


def evaluation_loader(
    source: Source, facts: DataFacts, batch_size: int = 64, num_workers: int | None = None
) -> BatchLoader:
    """Return a loader of all images of a source, preprocessed for a model, in the order of the rows.

    Args:
        source: Labelled images.
        facts: Facts of the model, with its preprocessing.
        batch_size: Number of images in a batch, 1 or more. Defaults to 64.
        num_workers: Number of processes that read images. Defaults to at most 8, and to 0 for data in memory.
    """
    pipeline = build_transforms(
        list(facts.eval_transforms), "eval_transforms", image_size=facts.image_size, in_channels=facts.channels
    )
    dataset = EvaluationSet(source, np.arange(len(source)), pipeline, facts.channels, 0)  # type: ignore[arg-type]
    cores = usable_cores()
    automatic = 0 if source.in_memory or cores < 2 or len(source) <= batch_size else min(_MAX_WORKERS, cores)
    workers = automatic if num_workers is None else num_workers
    return BatchLoader(
        dataset, batch_size=batch_size, sampler=SequentialSampler(dataset), num_workers=workers, drop_last=False
    )


def predict_source(
    model: EvaluatedModel,
    source: Source,
    batch_size: int,
    num_workers: int | None,
    report_progress: Callable[[str], None],
) -> tuple[Predictions, dict[str, str]]:
    """Return the predictions for all images of a source, sorted by id, and the reasons of unreadable images by id.

    Args:
        model: Trained model.
        source: Labelled images with the classes of the model.
        batch_size: Number of images in a batch, 1 or more.
        num_workers: Number of processes that read images, or ``None`` for an automatic number.
        report_progress: Function that receives the number of finished images as text, every five seconds.

    Raises:
        UserError: If no image can be read.
    """
    ids: list[str] = []
    targets, logits = [], []
    skipped: dict[str, str] = {}
    reported = time.monotonic()
    for batch in evaluation_loader(source, model.facts, batch_size, num_workers):
        skipped |= dict(batch.skipped)
        if len(batch):
            ids += batch.ids
            targets.append(batch.targets.numpy())
            logits.append(model.logits(batch).numpy())
        if time.monotonic() - reported > _PROGRESS_SECONDS:
            reported = time.monotonic()
            report_progress(f"{len(ids) + len(skipped):,} of {len(source):,} images")
    if not ids:
        first, reason = next(iter(skipped.items()))
        raise UserError(f"evaluate: none of the {len(source):,} images can be read. The first: {first}: {reason}.")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    predictions = Predictions(
        [ids[i] for i in order],
        np.concatenate(targets)[order],
        np.concatenate(logits)[order],
        model.facts.class_names,
    )
    return predictions, skipped


class SourceImages:
    """Images of a source by id, for the thumbnails of a page.

    Args:
        source: Labelled images.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._row_of = {name: row for row, name in enumerate(source.ids)}

    def load_images(self, ids: Iterable[str]) -> list[Tensor | None]:
        """Return the images of these ids, with ``None`` for an image that cannot be read."""
        images: list[Tensor | None] = []
        for name in ids:
            try:
                images.append(self._source.load(self._row_of[name]))
            except BadImage:
                images.append(None)
        return images
