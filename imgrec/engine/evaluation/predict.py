"""Predictions of a trained model for image files: ``imgrec.predict`` and ``imgrec predict``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from imgrec.engine.evaluation.predict_inputs import find_images
from imgrec.errors import UserError
from imgrec.trust import Trust

if TYPE_CHECKING:
    from imgrec.export import Prediction
    from imgrec.runs.folder import RunFolder


def predict(
    model: RunFolder | str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    batch_size: int = 64,
    device: str = "auto",
    tta: Any = None,
    tta_average: Literal["probabilities", "logits"] = "probabilities",
    trust: Trust = None,
) -> list[Prediction]:
    """Predict the classes of images.

    The command ``imgrec predict`` uses the same predictor. An image that cannot be read has a prediction with an error.

    Args:
        model: Run folder, checkpoint, model folder or export.
        images: Image files, folders, globs, and tables of paths (.csv, .tsv): one or several of them.
        batch_size: Number of images per batch. Defaults to 64.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``. Defaults to ``auto``.
        tta: Views of test-time augmentation, for example ``"hflip"``. Defaults to none.
        tta_average: Average of the ``probabilities`` or of the ``logits`` of the views.
        trust: Names of classes and modules that the model may contain in addition to the registries. ``True`` allows
            every name. Defaults to none.

    Raises:
        UserError: If the model cannot be used, or if a path does not exist.

    Example::

        for prediction in imgrec.predict("runs/digits/quickstart/20261121-143005", ["a.png", "folder"]):
            print(prediction.path, prediction.classes[0], prediction.probabilities[0])
    """
    from imgrec.runs.load import load

    if batch_size < 1:
        raise UserError(f"batch_size: expected 1 or more, got {batch_size}.")
    given = [images] if isinstance(images, str | Path) else images
    inputs = find_images(map(str, given))
    path = getattr(model, "path", model)
    predictor = load(path, device=device, batch_size=batch_size, tta=tta, tta_average=tta_average, trust=trust)
    return list(predictor.stream(row.path for row in inputs.rows))
