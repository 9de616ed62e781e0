"""A trained model from wherever it stands, ready for images."""

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
from imgrec.runs.folder import CONFIG, RunFolder
from imgrec.runs.product import find_export, open_export
from imgrec.tasks import BaseTask, ClassificationTask, DistillationTask
from imgrec.trust import Trust, import_named, reading
from imgrec.types import DataFacts

_CALIBRATION, _BATCH = 256, 32


def load(
    path: str | os.PathLike[str],
    device: str = "auto",
    batch_size: int = 64,
    tta: Specs | None = None,
    tta_average: Average = "probabilities",
    quantized: bool = False,
    trust: Trust = None,
) -> Predictor:
    """Load the trained model of a run folder, a checkpoint, a model folder or an export.

    A run whose figures are those of an export, such as an int8 variant of ``imgrec compress``, is loaded as that
    export, in its runtime. So is a run that was trained quantization-aware. To load the network of such a run in
    PyTorch, give its folder ``model/``. ``Predictor.backend.title`` names runtime and precision.

    Args:
        path: a run folder (its export or its model folder, otherwise its best or last checkpoint), a ``.ckpt`` file, a
            model folder, the folder of an export, or the file ``.onnx`` or ``.xml`` in it.
        device: ``auto`` selects a GPU if there is one; for an export it is the CPU.
        batch_size: number of images in one pass.
        tta: further views of each image, for example ``hflip``; see `imgrec list views`.
        tta_average: mean of the ``probabilities`` or of the ``logits`` of the views.
        quantized: load the network in int8 in PyTorch: as :class:`imgrec.callbacks.QAT` trained it. The network of
            another run folder is quantized now, with bounds from 256 of its training images. The numbers are those of
            int8, computed by ordinary operations of PyTorch, so it is not faster. An export is fast.
        trust: names of classes and modules that may be imported in addition to the registries; ``True`` allows every
            name that the files contain. Default: none.

    Raises:
        UserError: If there is nothing of the kind, a view is unknown, a runtime is not installed, or a network cannot
            be quantized. If what is loaded names a class outside the registries that is not trusted.

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
    """Load the classifier of a run folder, a checkpoint or a model folder in PyTorch, on the CPU, and its facts.

    Raises:
        UserError: If there is nothing of the kind.
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
    """A checkpoint's content, on the CPU; no code is unpickled.

    Raises:
        UserError: it is cut off, or no checkpoint.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own advice is to run what stands in it
        raise UserError(
            f"{path} is no checkpoint that can be read: it is no file of tensors and plain values"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        why = str(error).partition("\n")[0] or "the file ends too early"
        raise UserError(f"{path} is no checkpoint that can be read: {why}") from error
    if not isinstance(found, dict) or "state_dict" not in found:
        raise UserError(f"{path} is no checkpoint: it holds no state_dict")
    return found


def task_class(checkpoint: dict[str, Any], path: Path) -> type[BaseTask]:
    """The class that a checkpoint names as its own."""
    name = checkpoint.get("imgrec", {}).get("task", "")
    try:
        found = import_named(str(name), f"{path}: imgrec.task", "task", (ClassificationTask, DistillationTask))
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'the task "{name}" of the checkpoint {path} cannot be imported: {error}') from error
    if not (isinstance(found, type) and issubclass(found, BaseTask)):
        raise UserError(f'the checkpoint {path} names "{name}", which is no imgrec task')
    return found


def _in_int8(classifier: Classifier, facts: DataFacts, path: Path) -> Classifier:
    if isinstance(classifier, QuantizedClassifier):
        return to_int8(classifier)
    if not (path / CONFIG).is_file() or (path / "model.safetensors").is_file():
        raise UserError(
            f"{path} was not trained quantization-aware, and no images are at hand to read the bounds of int8 from: "
            "quantized=True takes its run folder, or a model of a run with the callback QAT"
        )
    from imgrec.runs.data import data_of  # what resumes a run reads checkpoints, and so imports this file

    data = data_of(RunFolder(path))
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
        raise UserError(f"{path} holds a {type(task.model).__name__}, not an imgrec Classifier")
    assert task.facts is not None
    return task.model, task.facts
