"""The run recorder: everything that a run was and said, in its folder, in open formats."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from imgrec import yaml12
from imgrec.callbacks.metrics_logger import MetricsLogger, shortest
from imgrec.export import save_model_folder
from imgrec.files import write_text
from imgrec.randomness import run_seed
from imgrec.runs.environment import describe_environment
from imgrec.runs.folder import CONFIG, ENVIRONMENT, create_run_folder
from imgrec.runs.metrics_log import read_metrics
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import update_summary, write_json
from imgrec.runs.system import system_totals
from imgrec.tasks import BaseTask, ClassificationTask


class RunRecorder(pl.Callback):
    """Writes the run folder ``<root>/<experiment>/<run id>``, from the first process only.

    It makes the folder when ``fit`` begins, after what is wrong with data, config or checkpoint has been refused. It
    writes config, environment and metrics, gives every ``ModelCheckpoint`` without a ``dirpath`` the run's
    ``checkpoints/``, and leaves predictions, summary and the shareable model folder. Under ``fast_dev_run`` it does
    nothing.

    Args:
        experiment: the name of the experiment; slashes make folders: ``digits/quickstart``.
        root: the folder of all runs.
        config: the resolved config as YAML text; by default it is put together from the task and the data module.
        folder: an existing run folder to add evaluations to, instead of making a new one.
    """

    def __init__(
        self,
        experiment: str = "experiment",
        root: str | Path = "runs",
        config: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self.experiment = experiment
        self.root = Path(root)
        self.config = config
        self.folder = folder
        self._began = 0.0
        self._homeless: list[ModelCheckpoint] = []

    # ---------------------------------------------------------------- begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note which checkpoints need a folder; it is made later, once nothing can be refused any more."""
        for logger in _metrics_loggers(trainer):
            logger.muted = stage == TrainerFn.VALIDATING  # the curve of the epochs stands already
        if _idle(trainer) or stage != TrainerFn.FITTING:
            return
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(self.root / "checkpoints")  # not to be asked of the loggers, it starts them
                self._homeless.append(callback)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder, once, and hang the metrics log into the trainer."""
        if _idle(trainer):
            return
        if self.folder is None:
            made = create_run_folder(self.root, self.experiment) if trainer.is_global_zero else self.root
            self.folder = trainer.strategy.broadcast(made)
            if trainer.is_global_zero:
                self._write_origin(trainer, pl_module)
                print(f"run {self.folder}", flush=True)
        for callback in self._homeless:
            callback.dirpath = str(self.folder / "checkpoints")
        if not _metrics_loggers(trainer):
            trainer.loggers = [MetricsLogger(self.folder), *trainer.loggers]

    def _write_origin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.folder is not None
        write_text(self.folder / CONFIG, self.config or _config_of(trainer, pl_module))
        environment = describe_environment(
            command=[Path(sys.argv[0]).name, *sys.argv[1:]],
            seed=run_seed(),
            fingerprint=getattr(trainer.datamodule, "fingerprint", None),  # type: ignore[attr-defined]
            experiment=self.experiment,
            started=datetime.now(UTC),
        )
        write_json(self.folder / ENVIRONMENT, environment)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the size of what is trained."""
        self._began = time.perf_counter()
        data = trainer.datamodule  # type: ignore[attr-defined]
        scaling = getattr(pl_module, "lr_scaling", None)
        self._summarise(
            trainer,
            status="running",
            parameters=sum(p.numel() for p in pl_module.parameters()),
            split_sizes=data.split_sizes() if hasattr(data, "split_sizes") else {},
            **({"learning_rate": scaling.to_dict()} if scaling is not None else {}),
        )

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The figures of the epoch before are complete: put them on disk."""
        for logger in _metrics_loggers(trainer):
            logger.flush()

    # ---------------------------------------------------------------- end

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time that training took."""
        self._summarise(
            trainer,
            train_seconds=round(time.perf_counter() - self._began, 3),
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            skipped_images=getattr(trainer.datamodule, "skipped", {}),  # type: ignore[attr-defined]
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the model folder from the best checkpoint; the run is finished."""
        if self._writes(trainer):
            best = _best(trainer)
            self._summarise(trainer, **best, system=self._system_totals(trainer))
            self._write_model(trainer, pl_module, best)
            self._summarise(trainer, status="finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say in the summary how the run ended."""
        status = "interrupted" if isinstance(exception, KeyboardInterrupt) else "failed"
        self._summarise(trainer, status=status, error=f"{type(exception).__name__}: {exception}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the predictions of ``trainer.validate``; the epochs of ``fit`` leave metrics alone."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write_evaluation(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the predictions of ``trainer.test``."""
        self._write_evaluation(trainer, pl_module, "test")

    # ---------------------------------------------------------------- write

    def _system_totals(self, trainer: pl.Trainer) -> dict[str, float]:
        assert self.folder is not None
        for logger in _metrics_loggers(trainer):
            logger.flush()
        path = self.folder / "metrics.csv"
        return system_totals(read_metrics(path)) if path.is_file() else {}

    def _writes(self, trainer: pl.Trainer) -> bool:
        return self.folder is not None and trainer.is_global_zero and not _idle(trainer)

    def _summarise(self, trainer: pl.Trainer, **values: Any) -> None:
        if self._writes(trainer):
            assert self.folder is not None
            update_summary(self.folder, values)

    def _write_evaluation(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str) -> None:
        if not self._writes(trainer) or not isinstance(pl_module, BaseTask) or pl_module.predictions is None:
            return
        assert self.folder is not None
        assert pl_module.facts is not None
        found = pl_module.predictions
        predictions = Predictions(
            ids=list(found.ids),
            targets=found.targets.numpy(),
            logits=found.logits.numpy(),
            class_names=pl_module.facts.class_names,
        )
        write_predictions(self.folder / "predictions" / f"{split}.parquet", predictions)
        prefix = f"{split}/"
        figures = {
            name.removeprefix(prefix): shortest(float(value))
            for name, value in trainer.callback_metrics.items()
            if name.startswith(prefix)
        }
        update_summary(self.folder, {split: figures})

    def _write_model(self, trainer: pl.Trainer, pl_module: pl.LightningModule, best: dict[str, Any]) -> None:
        assert self.folder is not None
        overridden = type(pl_module).build_model is not ClassificationTask.build_model  # type: ignore[attr-defined]
        if not isinstance(pl_module, ClassificationTask) or overridden:
            rank_zero_info("no model folder: how this task builds its network is code, not a spec")
            return
        assert pl_module.facts is not None
        path = _best_checkpoint(trainer)
        task = (
            pl_module
            if path is None
            else type(pl_module).load_from_checkpoint(path, map_location="cpu", weights_only=True)
        )
        save_model_folder(
            self.folder / "model",
            task.model,
            {"backbone": task.backbone_spec, "head": task.head_spec, "normalize": task.normalize},
            pl_module.facts,
            card=_card(self.experiment, best),
        )


def _idle(trainer: pl.Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _metrics_loggers(trainer: pl.Trainer) -> list[MetricsLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsLogger)]


def _best_checkpoint(trainer: pl.Trainer) -> str | None:
    callback = trainer.checkpoint_callback
    return callback.best_model_path or None if isinstance(callback, ModelCheckpoint) else None


def _best(trainer: pl.Trainer) -> dict[str, Any]:
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or callback.best_model_score is None or not callback.best_model_path:
        return {}
    import torch

    epoch = torch.load(callback.best_model_path, map_location="cpu", weights_only=True)["epoch"]
    return {
        "monitor": callback.monitor,
        "best_score": shortest(float(callback.best_model_score)),
        "best_epoch": int(epoch),
    }


def _config_of(trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
    config: dict[str, Any] = {"seed_everything": run_seed()}
    for key, part in (("model", pl_module), ("data", trainer.datamodule)):  # type: ignore[attr-defined]
        if part is not None:
            arguments = {k: v for k, v in dict(part.hparams).items() if k not in ("facts", "load_weights")}
            config[key] = {"class_path": f"{type(part).__module__}.{type(part).__qualname__}", "init_args": arguments}
    config["trainer"] = {"max_epochs": trainer.max_epochs}
    return yaml12.dump(config)


def _card(experiment: str, best: dict[str, Any]) -> str:
    which = f"epoch {best['best_epoch'] + 1}, {best['monitor']} {best['best_score']:.4f}" if best else "the last epoch"
    return f"Trained by the experiment `{experiment}`; the weights are those of {which}.\n"
