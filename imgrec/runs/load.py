"""Loading of a trained model from a run folder, checkpoint, model folder or export."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from imgrec.augment import TestTimeAugmentation
from imgrec.augment.test_time import Average
from imgrec.compress.quantization.int8 import to_int8
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.data.calibration import calibration_images
from imgrec.errors import UserError
from imgrec.export import Predictor, load_model_folder
from imgrec.export.model_folder.preprocessing import check_preprocessing
from imgrec.models import Classifier
from imgrec.registry import Specs
from imgrec.runs.exports import find_export, open_export
from imgrec.runs.folder import CONFIG, RunFolder
from imgrec.tasks import BaseTask, ClassificationTask, DistillationTask
from imgrec.trust import Trust, import_named, reading
from imgrec.types import DataFacts
from imgrec.utils.ranges import PositiveInt, check_ranges

_CALIBRATION, _BATCH = 256, 32


@check_ranges
def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    batch_size: PositiveInt = 64,
    tta: Specs | None = None,
    tta_average: Average = "probabilities",
    quantized: bool = False,
    trust: Trust = None,
) -> Predictor:
    """Load the trained model of a run folder, a checkpoint, a model folder or an export.

    A run whose metrics are those of an export, such as an int8 variant of ``imgrec compress``, is loaded as that
    export, in its runtime. The same applies to a run with quantization-aware training. To load the model of such a run
    in PyTorch, use its folder ``model/``. ``Predictor.backend.title`` names runtime and precision.

    Args:
        path: Run folder, ``.ckpt`` file, model folder, folder of an export, or its file ``.onnx`` or ``.xml``. A run
            folder provides its export, its model folder, or its best or last checkpoint, in this order.
        device: Device of the model. ``auto`` selects a GPU if there is one, and the CPU for an export. Defaults to
            ``auto``.
        batch_size: Number of images per forward pass. Defaults to 64.
        tta: Further views of each image, for example ``hflip``. See `imgrec list views`. Defaults to none.
        tta_average: Mean over the views: ``probabilities`` or ``logits``. Defaults to ``probabilities``.
        quantized: If True, load the model in simulated int8 in PyTorch. A run with :class:`imgrec.callbacks.QAT` has
            the trained bounds. The model of another run folder is quantized with bounds from 256 training images. It
            is not faster than fp32, unlike an export. Defaults to False.
        trust: Names of classes and modules that may be imported in addition to the registries. ``True`` allows every
            name in the files. Defaults to none.

    Raises:
        UserError: If there is no model, a view is unknown, a runtime is not installed, or the model cannot be
            quantized. If the files contain a class outside the registries that is not trusted.

    Example::

        for found in imgrec.load("runs/digits/quickstart/20261121-143005").predict(["a.png", "b.png"]):
            print(found.path, found.classes[0], found.probabilities[0])
    """
    views = TestTimeAugmentation(tta, tta_average) if tta is not None else None
    with reading(path, trust):
        return _load(Path(path), device, batch_size, views, quantized)


def _load(path: Path, device: str, batch_size: int, views: TestTimeAugmentation | None, quantized: bool) -> Predictor:
    export = None if quantized else find_export(path)
    if export is not None:
        network, found = open_export(export, device, torch.get_num_threads())
        return Predictor(network, found.facts, batch_size=batch_size, tta=views)
    classifier, facts = load_classifier(path)
    if quantized:
        classifier = _in_int8(classifier, facts, path)
    return Predictor(classifier, facts, batch_size=batch_size, device=device, tta=views)


def load_classifier(path: str | os.PathLike[str]) -> tuple[Classifier, DataFacts]:
    """Load the classifier of a run folder, checkpoint or model folder on the CPU, and its facts.

    Raises:
        UserError: If there is no model.
    """
    path = Path(path)
    with reading(path):
        return _load_classifier(path)


def _load_classifier(path: Path) -> tuple[Classifier, DataFacts]:
    if path.is_file():
        return _from_checkpoint(path)
    if (path / "model.safetensors").is_file():
        return load_model_folder(path)
    run = RunFolder(path)
    if (run.model_folder / "config.json").is_file():
        return load_model_folder(run.model_folder)
    return _from_checkpoint(run.trained_checkpoint())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU, without unpickling of code.

    Raises:
        UserError: If it is truncated or no checkpoint.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # the message of torch suggests to execute the file
        raise UserError(f"{path} is no readable checkpoint: expected a file of tensors and plain values") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0] or "the file is truncated"
        raise UserError(f"{path} is no readable checkpoint: {reason}") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise UserError(f"{path} is no checkpoint: it contains no state_dict")
    return found


def task_class(checkpoint: dict[str, Any], path: Path) -> type[BaseTask]:
    """Return the task class of a checkpoint.

    Raises:
        UserError: If it cannot be imported or is no task.
    """
    name = checkpoint.get("imgrec", {}).get("task", "")
    try:
        found = import_named(str(name), f"{path}: imgrec.task", "task", (ClassificationTask, DistillationTask))
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'the task "{name}" of the checkpoint {path} cannot be imported: {error}') from error
    if not (isinstance(found, type) and issubclass(found, BaseTask)):
        raise UserError(f'{path}: imgrec.task: expected a task of imgrec, got "{name}"')
    return found


def _in_int8(classifier: Classifier, facts: DataFacts, path: Path) -> Classifier:
    if isinstance(classifier, QuantizedClassifier):
        return to_int8(classifier)
    if not (path / CONFIG).is_file() or (path / "model.safetensors").is_file():
        raise UserError(
            f"{path}: quantized=True expects a run folder, or a model of a run with the callback QAT. Other models "
            "require training images for the bounds of int8"
        )
    from imgrec.runs.data import load_run_data  # avoids an import cycle

    data = load_run_data(RunFolder(path))
    images = calibration_images(data, min(_CALIBRATION, len(data.splits.train))).images
    model = QuantizedClassifier(classifier, facts.channels, facts.image_size).eval()
    for batch in torch.split(images, _BATCH):
        model.calibrate(batch)
    return to_int8(model)


def _from_checkpoint(path: Path) -> tuple[Classifier, DataFacts]:
    task = task_class(read_checkpoint(path), path).load_from_checkpoint(path, map_location="cpu", weights_only=True)
    if task.facts is None:
        raise UserError(f"{path}: expected the facts of its data in hyper_parameters, got none.")
    check_preprocessing(task.facts, str(path))
    if not isinstance(task.model, Classifier):
        raise UserError(f"{path}: expected an imgrec Classifier, got {type(task.model).__name__}")
    assert task.facts is not None
    return task.model, task.facts
