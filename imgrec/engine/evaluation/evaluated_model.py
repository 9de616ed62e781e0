"""Trained model for an evaluation: logits of a batch, metrics, and the digest of its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from imgrec.augment import TestTimeAugmentation
from imgrec.augment.test_time import Average
from imgrec.errors import UserError
from imgrec.export.export_folder import read_export
from imgrec.export.model_folder.save import WEIGHTS
from imgrec.registry import Specs
from imgrec.runs.exports import find_export
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.runs.load import load, read_checkpoint, task_class
from imgrec.tasks.epoch_metrics import classification_metrics
from imgrec.types import Batch, DataFacts

Metrics = Callable[[Tensor, Tensor], dict[str, float]]


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """Model that is evaluated.

    Attributes:
        facts: Facts of its data, with its preprocessing.
        logits: Function that returns the logits of a batch on the CPU, float ``(batch, num_classes)``.
        metrics: Function that maps all logits and targets to metrics by name, those of the task that trained it.
        title: Runtime, precision and device as text.
        weights: Digest of the file of its weights.
        run: Run folder that contains it, or ``None``.
    """

    facts: DataFacts
    logits: Callable[[Batch], Tensor]
    metrics: Metrics
    title: str
    weights: str
    run: RunFolder | None


def open_model(
    path: str | Path, device: str = "auto", tta: Specs | None = None, tta_average: Average = "probabilities"
) -> EvaluatedModel:
    """Open the model of a run folder, a checkpoint, a model folder or an export.

    A custom task evaluates with its ``model_step`` and its ``build_metrics``. :func:`imgrec.load` loads every other
    model.

    Args:
        path: Run folder, checkpoint, model folder or export.
        device: Device such as ``cpu``. Defaults to ``auto``: a GPU if there is one.
        tta: Specs of test-time views, see ``imgrec list views``. Defaults to none.
        tta_average: Average of the ``probabilities`` or of the ``logits`` of the views. Defaults to
            ``probabilities``.

    Raises:
        UserError: If the path contains no model.
    """
    path = Path(path).expanduser()
    checkpoint = own_checkpoint(path)
    run = run_around(path)
    if checkpoint is not None:
        return _of_task(checkpoint, device, tta, tta_average, run)
    predictor = load(path, device=device, tta=tta, tta_average=tta_average)
    weights = digest_of(weights_file(path))
    return EvaluatedModel(
        predictor.facts,
        lambda batch: predictor.logits(batch.images),
        classification_metrics,
        predictor.backend.title,
        weights,
        run,
    )


def run_around(path: Path) -> RunFolder | None:
    """Return the run folder at a path, or the one that contains a checkpoint, model folder or export."""
    around = (path, *path.absolute().parents[:2])
    return next((RunFolder(each) for each in around if is_run_folder(each)), None)


def own_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint of a model that a custom task trained, or ``None`` for the tasks of imgrec."""
    if is_run_folder(path):
        run = RunFolder(path)
        named = str((run.config.get("model") or {}).get("class_path") or "imgrec.")
        if named.startswith("imgrec.") or "." not in named or find_export(path) is not None:
            return None
        try:
            return run.trained_checkpoint()
        except UserError:  # a variant without a training has only its model folder
            return None
    if path.suffix != ".ckpt" or not path.is_file():
        return None
    named = str(read_checkpoint(path).get("imgrec", {}).get("task", "imgrec."))
    return None if named.startswith("imgrec.") else path


def weights_file(path: Path) -> Path:
    """Return the file of the weights of a model.

    Raises:
        UserError: If the path is not a run folder, a checkpoint, a model folder or an export.
    """
    if (export := find_export(path)) is not None:
        return read_export(export).file
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    run = RunFolder(path)
    inside = run.model_folder / WEIGHTS
    return inside if inside.is_file() else run.trained_checkpoint()


def digest_of(file: Path) -> str:
    """Return a digest of a file, 32 hexadecimal digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "blake2b").hexdigest()[:32]


def _of_task(
    checkpoint: Path, device: str, tta: Specs | None, tta_average: Average, run: RunFolder | None
) -> EvaluatedModel:
    views = TestTimeAugmentation(tta, tta_average) if tta is not None else None
    cls = task_class(read_checkpoint(checkpoint), checkpoint)
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        task = cls.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval().to(place)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f'the device "{device}" cannot be used: {str(error).partition(chr(10))[0]}') from error
    assert task.facts is not None

    def logits(batch: Batch) -> Tensor:
        def step(images: Tensor) -> Tensor:
            return task.model_step(replace(moved, images=images)).logits

        moved = batch.to(place)
        with torch.inference_mode():
            found: Tensor = views(step, moved.images) if views else step(moved.images)
        return found.float().cpu()

    title = f"PyTorch on {place}, {cls.__module__}.{cls.__qualname__}"
    return EvaluatedModel(task.facts, logits, task.metrics, title, digest_of(checkpoint), run)
