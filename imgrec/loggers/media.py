"""Images and histograms for W&B, TensorBoard and MLflow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from pytorch_lightning.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

_BINS = 64


def show_picture(trainer: pl.Trainer, name: str, pixels: NDArray[np.uint8]) -> None:
    """Log an image, uint8 ``(height, width, 3)``, under the next step of the loggers."""
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pixels, step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            import wandb

            logger.log_metrics({name: wandb.Image(pixels)}, step=step)  # type: ignore[dict-item]
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_image(logger.run_id, pixels, artifact_file=f"{name}-{step:06d}.png")


def show_histogram(trainer: pl.Trainer, name: str, values: NDArray[np.float32]) -> None:
    """Log a histogram of the finite values, ``(n,)``, under the next step of the loggers."""
    found: Any = values[np.isfinite(values)]
    if not len(found):
        return
    step = trainer.fit_loop.epoch_loop._batches_that_stepped
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(name, found, step)
        elif isinstance(logger, WandbLogger):
            import wandb

            counted = wandb.Histogram(np_histogram=np.histogram(found, bins=_BINS))
            logger.log_metrics({f"{name}/histogram": counted}, step=step)  # type: ignore[dict-item]
