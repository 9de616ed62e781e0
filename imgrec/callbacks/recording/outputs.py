"""Outputs of a run: config, predictions, model folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from pytorch_lightning.callbacks import ModelCheckpoint

from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.data import ImageDataModule
from imgrec.data.calibration import calibration_images
from imgrec.errors import UserError
from imgrec.export import save_model_folder
from imgrec.export.qat_onnx import NAME, export_qat
from imgrec.export.trained_model import read_any
from imgrec.loggers.csv import shortest
from imgrec.metrics.names import custom_metrics
from imgrec.runs.checkpoints import LAST
from imgrec.runs.config import complete_config
from imgrec.runs.data import check_run_images
from imgrec.runs.folder import RunFolder
from imgrec.runs.metrics_csv import read_metrics
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import HIGHER_IS_BETTER, update_summary
from imgrec.runs.system import system_totals
from imgrec.tasks import BaseTask, ClassificationTask
from imgrec.tasks.epoch_metrics import directions_of
from imgrec.types import DataFacts
from imgrec.utils import yaml
from imgrec.utils.formatting import epoch_text
from imgrec.utils.seeding import run_seed

_COMPARED = 256
"""Number of images on which an export is compared with the trained model."""


def write_evaluation(folder: Path, trainer: pl.Trainer, task: BaseTask, split: str) -> Predictions:
    """Write predictions and metrics of an evaluated split, and return the predictions."""
    assert task.facts is not None
    assert task.predictions is not None
    found = task.predictions
    predictions = Predictions(
        ids=list(found.ids),
        targets=found.targets.numpy(),
        logits=found.logits.numpy(),
        class_names=task.facts.class_names,
    )
    check_run_images(RunFolder(folder), split, predictions)
    write_predictions(folder / "predictions" / f"{split}.parquet", predictions)
    prefix = f"{split}/"
    figures = {
        name.removeprefix(prefix): shortest(float(value))
        for name, value in trainer.callback_metrics.items()
        if name.startswith(prefix)
    }
    own = {name: better for name, better in directions_of(task).items() if name in custom_metrics(figures)}
    update_summary(folder, {split: figures, **({HIGHER_IS_BETTER: own} if own else {})})
    return predictions


def write_model(folder: Path, task: pl.LightningModule, checkpoint: str | None, card: str, data: Any = None) -> None:
    """Write the model folder with the weights of a checkpoint, or with the present weights without one.

    A model of quantization-aware training is exported in int8 as well, and compared on images of ``data``.
    """
    overridden = type(task).build_model is not ClassificationTask.build_model  # type: ignore[attr-defined]
    if not isinstance(task, ClassificationTask) or overridden:
        rank_zero_info("no model folder, because this task builds its model with code and not from a spec")
        return
    assert task.facts is not None
    trained = task
    if checkpoint is not None:
        trained = type(task).load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True)
    save_model_folder(
        folder / "model",
        trained.model,
        trained.specs,
        task.facts,
        card=card,
    )
    if isinstance(trained.model, QuantizedClassifier):
        _write_int8(folder / "exports" / NAME, trained.model, task.facts, data)


def _write_int8(folder: Path, model: QuantizedClassifier, facts: DataFacts, data: Any) -> None:
    images = None
    if isinstance(data, ImageDataModule):
        count = min(_COMPARED, len(data.splits.val))
        if count:
            images = calibration_images(data, count, "val").images.numpy().astype(np.float32) / np.float32(255)
    try:
        export = export_qat(model, facts, folder, images)
    except UserError as error:  # the run is complete, and can be exported later
        rank_zero_warn(f"no int8 export: {error}")
        return
    about = export.quantization or {}
    kernels = ", ".join(f"{count} {name}" for name, count in about["kernels"].items()) or "no kernel for int8"
    same = (
        f". {about['agreement']:.2%} of {about['images']} validation images have the same class as before"
        if images is not None
        else ""
    )
    rank_zero_info(f"int8 for ONNX Runtime: {folder} ({kernels}){same}")


def trained_checkpoint(trainer: pl.Trainer, folder: Path | None) -> str | None:
    """Return the best checkpoint, the last one without a best, or None without any."""
    callback = trainer.checkpoint_callback
    best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
    last = None if folder is None else folder / "checkpoints" / LAST
    found = [str(path) for path in (best, last) if path and Path(path).is_file()]
    return found[0] if found else None


def best_epoch(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the monitored metric, its best value and its epoch from 0, or an empty mapping."""
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or callback.best_model_score is None:
        return {}
    if not Path(callback.best_model_path).is_file():
        return {}
    epoch = read_any(Path(callback.best_model_path)).get("epoch", 0)
    return {
        "monitor": callback.monitor,
        "best_score": shortest(float(callback.best_model_score)),
        "best_epoch": int(epoch),
    }


def config_of(trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
    """Return the config of a training from Python, as YAML."""
    config: dict[str, Any] = {"seed_everything": run_seed()}
    for key, part in (("model", pl_module), ("data", trainer.datamodule)):  # type: ignore[attr-defined]
        if part is not None:
            arguments = {k: v for k, v in dict(part.hparams).items() if k not in ("facts", "load_weights")}
            config[key] = {"class_path": f"{type(part).__module__}.{type(part).__qualname__}", "init_args": arguments}
    config["trainer"] = {"max_epochs": trainer.max_epochs}
    return yaml.dump(complete_config(config))


def describe_weights(experiment: str, best: dict[str, Any]) -> str:
    """Return the sentence about the weights in the README of the model."""
    which = (
        f"{epoch_text(best['best_epoch'])}, {best['monitor']} {best['best_score']:.4f}" if best else "the last epoch"
    )
    return f"Trained by the experiment `{experiment}`. The weights are those of {which}.\n"


def replace_folder(value: Any, before: str, now: str) -> Any:
    """Replace the folder ``before`` by ``now`` in every path of ``value``."""
    if isinstance(value, dict):
        return {replace_folder(k, before, now): replace_folder(v, before, now) for k, v in value.items()}
    if isinstance(value, str) and value.startswith(f"{before}{os.sep}"):
        return now + value.removeprefix(before)
    return value


def relative_path(folder: Path, path: str | None) -> str | None:
    """Return a path inside the run folder relative to it, and any other path unchanged."""
    if path is not None and Path(path).resolve().is_relative_to(folder.resolve()):
        return Path(path).resolve().relative_to(folder.resolve()).as_posix()
    return path


def read_system_totals(folder: Path) -> dict[str, float]:
    """Return the totals of the system metrics in metrics.csv, or an empty mapping without the file."""
    path = folder / "metrics.csv"
    return system_totals(read_metrics(path)) if path.is_file() else {}
