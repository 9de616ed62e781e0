"""Images of a training: confusion matrix, worst errors, training samples."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from imgrec.callbacks.recording.current_run import run_folder
from imgrec.data.thumbnails import load_reduced
from imgrec.loggers.media import show_picture
from imgrec.metrics.confusion import confusion_matrix
from imgrec.reports.images import (
    GridRow,
    confusion_matrix_figure,
    figure_to_pixels,
    image_grid,
    save_figure,
    target_caption,
)
from imgrec.tasks import BaseTask, PredictionSet
from imgrec.utils.checks import check_names
from imgrec.utils.ranges import PositiveInt, check_ranges

logger = logging.getLogger(__name__)

Picture = Literal["confusion", "mistakes", "samples"]
_PICTURES = ("confusion", "mistakes", "samples")


class EpochPictures(pl.Callback):
    """Callback that draws the confusion matrix, the worst errors and training samples every few epochs.

    The images are written to ``figures/`` of the run folder (``confusion-epoch005.png``) and sent to W&B, TensorBoard
    and MLflow. ``confusion`` and ``mistakes`` show validation images. ``mistakes`` are the errors with the largest
    loss. ``samples`` are the first images of the epoch after augmentation and mixing.

    Args:
        every_n_epochs: Number of epochs between two drawings. The last epoch is always drawn. Defaults to 5.
        show: Names among ``confusion``, ``mistakes`` and ``samples``. Defaults to all.
        columns: Number of images in a row. Defaults to 8.
        rows: Number of rows of images. Defaults to 3.

    Raises:
        UserError: If an argument is out of range, or if a name is unknown.

    Example::

        trainer:
          callbacks:
            - {class_path: EpochPictures, every_n_epochs: 5, show: [confusion, mistakes]}
    """

    @check_ranges
    def __init__(
        self,
        every_n_epochs: PositiveInt = 5,
        show: list[Picture] | None = None,
        columns: PositiveInt = 8,
        rows: PositiveInt = 3,
    ) -> None:
        check_names("EpochPictures", show or (), _PICTURES, "pictures")
        self.every_n_epochs = every_n_epochs
        self.show: tuple[str, ...] = tuple(show) if show is not None else _PICTURES
        self.columns = columns
        self.rows = rows

    def _due(self, trainer: pl.Trainer) -> bool:
        done = trainer.current_epoch + 1
        return run_folder(trainer) is not None and (done % self.every_n_epochs == 0 or done == trainer.max_epochs)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the first batch of the epoch after augmentation."""
        if batch_idx == 0 and "samples" in self.show and self._due(trainer) and isinstance(pl_module, BaseTask):
            assert pl_module.facts is not None
            count = self.columns * self.rows
            names, targets = pl_module.facts.class_names, batch.targets[:count].cpu()
            captions = [target_caption(target, names) for target in targets]
            self._draw(trainer, "samples", "as training sees them", list(batch.images[:count].cpu()), captions)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the predictions of the validation."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not self._due(trainer):
            return
        if not isinstance(pl_module, BaseTask) or pl_module.predictions is None:
            return
        assert pl_module.facts is not None
        names, found = pl_module.facts.class_names, pl_module.predictions
        predicted = found.logits.argmax(1)
        if "confusion" in self.show:
            accuracy = float((predicted == found.targets).float().mean())
            title = f"epoch {trainer.current_epoch + 1}, validation accuracy {accuracy:.4f}"
            matrix = confusion_matrix(found.targets.numpy(), predicted.numpy(), len(names))
            self._save(trainer, "confusion", confusion_matrix_figure(matrix, names, title))
        if "mistakes" in self.show:
            self._draw_mistakes(trainer, found, predicted, names)

    def _draw_mistakes(
        self, trainer: pl.Trainer, found: PredictionSet, predicted: Tensor, names: tuple[str, ...]
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "load_images"):
            return
        log_p = found.logits.double().log_softmax(1)
        losses = -log_p.gather(1, found.targets[:, None])[:, 0]
        wrong = np.flatnonzero((predicted != found.targets).numpy())
        if not len(wrong):
            return
        order = np.argsort(-np.nan_to_num(losses.numpy()[wrong], nan=np.inf), kind="stable")
        worst = wrong[order][: self.columns * self.rows].tolist()
        captions = [
            f"{names[int(found.targets[i])]}\nsaid {names[int(predicted[i])]} {float(log_p[i].max().exp()):.2f}"
            for i in worst
        ]
        images = load_reduced(data, [found.ids[i] for i in worst])
        self._draw(trainer, "mistakes", f"the worst of {len(wrong)} mistakes in validation", images, captions)

    def _draw(
        self, trainer: pl.Trainer, name: str, title: str, images: list[Tensor | None], captions: list[str]
    ) -> None:
        across = self.columns
        rows = [GridRow("", images[i : i + across], captions[i : i + across]) for i in range(0, len(images), across)]
        self._save(trainer, name, image_grid(rows, f"epoch {trainer.current_epoch + 1}: {title}"))

    def _save(self, trainer: pl.Trainer, name: str, figure: Any) -> None:
        folder = run_folder(trainer)
        assert folder is not None
        path = folder / "figures" / f"{name}-epoch{trainer.current_epoch + 1:03d}.png"
        try:
            save_figure(figure, path)
        except OSError as error:
            logger.warning("%s could not be written: %s", path, error.strerror or error)
        show_picture(trainer, f"figures/{name}", figure_to_pixels(figure))
