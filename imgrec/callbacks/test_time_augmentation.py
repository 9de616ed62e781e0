"""Test-time augmentation while Lightning evaluates."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytorch_lightning as pl

from imgrec.augment import TestTimeAugmentation
from imgrec.augment.test_time import Average
from imgrec.registry import Specs
from imgrec.types import Batch, StepOutput


class TestTimeViews(pl.Callback):
    """Evaluates every image in several views and takes the mean: in test and prediction, not in validation.

    The views go through the task's own ``model_step``; the features are those of the image as it is.

    Args:
        views: what is looked at beside the image itself; see `imgrec list views`.
        average: ``probabilities``, or ``logits``.

    Raises:
        SpecError: an unknown view or argument.

    Example::

        trainer:
          callbacks:
            - {class_path: TestTimeViews, views: hflip}
    """

    __test__ = False  # what pytest would take for a class of tests

    def __init__(self, views: Specs = "hflip", average: Average = "probabilities") -> None:
        self.augmentation = TestTimeAugmentation(views, average)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the mean over the views in the place of the task's step."""
        self._replace(pl_module)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give the task its own step back."""
        self._restore(pl_module)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As for the test."""
        self._replace(pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As for the test."""
        self._restore(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """As at the end."""
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
