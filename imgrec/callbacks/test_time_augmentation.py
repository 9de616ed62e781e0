"""Test-time augmentation in an evaluation of Lightning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from imgrec.augment import TestTimeAugmentation
from imgrec.augment.test_time import Average
from imgrec.registry import Specs
from imgrec.types import Batch, StepOutput


class TestTimeViews(pl.Callback):
    """Test-time augmentation, which averages the predictions of several views of an image in test and prediction.

    Validation does not use it. Every view passes through ``model_step`` of the task. The features are those of the
    original image.

    Args:
        views: Views in addition to the image, see `imgrec list views`. Defaults to ``hflip``.
        average: ``probabilities`` or ``logits``. Defaults to ``probabilities``.

    Raises:
        SpecError: If a view or an argument is unknown.

    Example::

        trainer:
          callbacks:
            - {class_path: TestTimeViews, views: hflip}
    """

    __test__ = False  # not a test class for pytest

    def __init__(self, views: Specs = "hflip", average: Average = "probabilities") -> None:
        self.augmentation = TestTimeAugmentation(views, average)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace ``model_step`` of the task by the average over the views."""
        self._replace(pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore ``model_step`` of the task."""
        self._restore(pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace ``model_step`` of the task by the average over the views."""
        self._replace(pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore ``model_step`` of the task."""
        self._restore(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore ``model_step`` of the task."""
        self._restore(pl_module)

    def _replace(self, task: Any) -> None:
        step, tta = task.model_step, self.augmentation

        def model_step(batch: Batch) -> StepOutput:
            outputs: list[StepOutput] = [
                tta.run(lambda view: step(replace(batch, images=view)), view, batch.images)
                for view in tta.all_views(batch.images)
            ]
            return replace(outputs[0], logits=tta.combine([output.logits for output in outputs]))

        task.__dict__["model_step"] = model_step

    def _restore(self, task: Any) -> None:
        task.__dict__.pop("model_step", None)
