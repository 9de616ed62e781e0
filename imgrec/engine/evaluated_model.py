"""A trained model as an evaluation needs it: logits of a batch, metrics, and what identifies its weights."""

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
from imgrec.metrics.classification import classification_metrics
from imgrec.registry import Specs
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.runs.load import load, read_checkpoint, task_class
from imgrec.runs.product import find_export
from imgrec.types import Batch, DataFacts

Metrics = Callable[[Tensor, Tensor], dict[str, float]]


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model that is evaluated.

    Attributes:
        facts: the facts of its data, with its preprocessing.
        logits: returns the logits of a batch, on the CPU: float ``(batch, num_classes)``.
        metrics: maps all logits and targets to named metrics: those of the task that trained it.
        title: runtime, precision and device in words.
        weights: digest of the file of its weights.
        run: the run folder that it is of, if it is in one.
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

    A task of a user's own evaluates with its ``model_step`` and its ``build_metrics``. Any other model is the one that
    :func:`imgrec.load` loads.

    Args:
        path: the run folder, checkpoint, model folder or export.
        device: ``auto`` selects a GPU if there is one.
        tta: further views of each image; see `imgrec list views`.
        tta_average: mean of the ``probabilities`` or of the ``logits`` of the views.

    Raises:
        UserError: If there is nothing of the kind.
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
    """Return the run that a run folder, or a checkpoint, model folder or export inside of one, belongs to."""
    around = (path, *path.absolute().parents[:2])
    return next((RunFolder(each) for each in around if is_run_folder(each)), None)


def own_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint of a model that a task of a user's own trained; ``None`` for the tasks of imgrec."""
    if is_run_folder(path):
        run = RunFolder(path)
        named = str((run.config.get("model") or {}).get("class_path") or "imgrec.")
        if named.startswith("imgrec.") or "." not in named or find_export(path) is not None:
            return None
        try:
            return run.trained_checkpoint()
        except UserError:  # a variant that was made without training has only its model folder
            return None
    if path.suffix != ".ckpt" or not path.is_file():
        return None
    named = str(read_checkpoint(path).get("imgrec", {}).get("task", "imgrec."))
    return None if named.startswith("imgrec.") else path


def weights_file(path: Path) -> Path:
    """Return the file that the weights of a model are in.

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
