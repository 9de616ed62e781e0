"""Run recorder: writes the run folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from imgrec.callbacks.checkpoints.exact_resume import logged_soon, open_log_step
from imgrec.callbacks.checkpoints.last import LastCheckpoint
from imgrec.callbacks.recording.origin import check_stored_data, write_origin, write_resumption
from imgrec.callbacks.recording.outputs import (
    best_epoch,
    describe_weights,
    read_system_totals,
    relative_path,
    replace_folder,
    trained_checkpoint,
    write_evaluation,
    write_model,
)
from imgrec.errors import ResourceError
from imgrec.loggers.base import log_evaluation_to_loggers, mute_loggers, resume_loggers, start_loggers
from imgrec.loggers.csv import MetricsLogger
from imgrec.runs.data import store_splits
from imgrec.runs.folder import create_run_folder
from imgrec.runs.lock import RunLock
from imgrec.runs.resume import Resumption
from imgrec.runs.summary import update_summary
from imgrec.tasks import BaseTask
from imgrec.tasks.callback import imgrec_callbacks
from imgrec.utils.signals import Preempted
from imgrec.utils.terminal import print
from imgrec.utils.write_errors import Postponed

logger = logging.getLogger(__name__)

_KEY = "imgrec_run"


class RunRecorder(pl.Callback):
    """Callback that writes the run folder ``<root>/<experiment>/<run id>``, from the first process only.

    The folder is created when ``fit`` starts, after data, config and checkpoint were checked. The callback writes
    config, environment, metrics, predictions, summary and the model folder. Every ``ModelCheckpoint`` without a
    ``dirpath`` uses ``checkpoints/`` of the run. With ``fast_dev_run`` nothing is written.

    Args:
        experiment: Name of the experiment. Slashes create folders: ``digits/quickstart``. Defaults to ``experiment``.
        root: Folder of all runs. Defaults to ``runs``.
        config: Resolved config as YAML. Defaults to a config made from the task and the data module.
        folder: Existing run folder for evaluations or training, instead of a new one. Additional entries of its
            environment.json stay.
        resumption: Checkpoint and changes, if the run in ``folder`` is resumed.

    Raises:
        UserError: If another process trains in the folder, or if its data has changed.
    """

    def __init__(
        self,
        experiment: str = "experiment",
        root: str | Path = "runs",
        config: str | None = None,
        folder: Path | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        self.experiment = experiment
        self.root = Path(root)
        self.config = config
        self.folder = folder
        self.resumption = resumption
        self._began = 0.0
        self._seconds_before = 0.0
        self._without_folder: list[ModelCheckpoint | LastCheckpoint] = []
        self._open = False
        self._lock: RunLock | None = None
        self.held = False
        """True to keep the lock of the folder until :meth:`close`, for an evaluation by the same process."""
        self._loaded: dict[str, Any] | None = None
        self.unwritten = Postponed()
        """Failure to write an evaluation, which is raised after its results were printed."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the folder of checkpoint callbacks. It is created in ``on_fit_start``."""
        mute_loggers(trainer, stage == TrainerFn.VALIDATING)
        for each in _metrics_loggers(trainer):
            each.muted = stage == TrainerFn.VALIDATING  # the rows of the epochs are in the file
        if _writes_nothing(trainer) or stage != TrainerFn.FITTING:
            return
        home = self.root if self.folder is None else self.folder
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint | LastCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(home / "checkpoints")  # Lightning would start the loggers to find a folder
                self._without_folder.append(callback)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the position in metrics.csv. Replace the paths of a moved run folder."""
        if self.resumption is None:
            return
        self._loaded = checkpoint.get(_KEY)
        if self._loaded is not None and self.folder is not None:
            places = (self._loaded["folder"], str(self.folder))
            checkpoint["callbacks"] = replace_folder(checkpoint.get("callbacks", {}), *places)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Validate the model, then create or resume the folder and add the logger of metrics.csv."""
        for each in imgrec_callbacks(trainer):
            each.validate_model(trainer, pl_module)
        if _writes_nothing(trainer):
            return
        if self.resumption is not None:
            self._resume(trainer, self.resumption)
        elif self.folder is None:
            made = create_run_folder(self.root, self.experiment) if trainer.is_global_zero else self.root
            self.folder = trainer.strategy.broadcast(made)
            self._begin(trainer, pl_module)
        elif not self._open:
            self._begin(trainer, pl_module)
        assert self.folder is not None
        for callback in self._without_folder:
            callback.dirpath = str(self.folder / "checkpoints")
        if not _metrics_loggers(trainer):
            trainer.loggers = [MetricsLogger(self.folder), *trainer.loggers]
        start_loggers(trainer, self.folder)
        self._open = True

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.folder is not None
        if trainer.is_global_zero:
            self._lock = RunLock(self.folder)
            write_origin(self.folder, trainer, pl_module, self.experiment, self.config)
            store_splits(self.folder, trainer.datamodule)  # type: ignore[attr-defined]
            print(f"run {self.folder}", flush=True)

    def _resume(self, trainer: pl.Trainer, resumption: Resumption) -> None:
        assert self.folder is not None
        check_stored_data(self.folder, trainer, resumption)
        if trainer.is_global_zero:
            self._lock = RunLock(self.folder)
            write_resumption(self.folder, trainer, resumption, self.experiment, self.config)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the size of the model and the splits. Resume metrics.csv at the position of the checkpoint."""
        self._began = time.perf_counter()
        self._resume_metrics(trainer)
        data = trainer.datamodule  # type: ignore[attr-defined]
        scaling = getattr(pl_module, "lr_scaling", None)
        self._update_summary(
            trainer,
            status="running",
            parameters=sum(p.numel() for p in pl_module.parameters()),
            split_sizes=data.split_sizes() if hasattr(data, "split_sizes") else {},
            **({"learning_rate": scaling.to_dict()} if scaling is not None else {}),
        )

    def _resume_metrics(self, trainer: pl.Trainer) -> None:
        if self.resumption is not None and not _writes_nothing(trainer):
            before = self._loaded or {"row": {"step": 0, "epoch": 0, "values": {}}, "seconds": 0.0}
            self._seconds_before = before["seconds"]
            for each in _metrics_loggers(trainer):
                each.go_on(before["row"])
            resume_loggers(trainer, self.folder, before["row"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Raise an error if a thread detected that the folder was deleted."""
        if self._lock is not None and self._lock.lost:
            self._lock.check()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the complete row of the previous epoch."""
        self.check_folder()
        for each in _metrics_loggers(trainer):
            each.flush()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the training time."""
        self._update_summary(
            trainer,
            train_seconds=round(self._seconds(), 3),
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            skipped_images=getattr(trainer.datamodule, "skipped", {}),  # type: ignore[attr-defined]
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the model folder from the best checkpoint and finish the run."""
        if not self._began:  # training was complete: only the rows of its evaluation are written
            self._resume_metrics(trainer)
        if self._writes(trainer):
            assert self.folder is not None
            best = best_epoch(trainer)
            for each in _metrics_loggers(trainer):
                each.flush()
            named = {"checkpoint": relative_path(self.folder, self.trained_checkpoint(trainer))}
            self._update_summary(trainer, **best, **named, system=read_system_totals(self.folder))
            write_model(
                self.folder,
                pl_module,
                self.trained_checkpoint(trainer),
                describe_weights(self.experiment, best),
                trainer.datamodule,  # type: ignore[attr-defined]
            )
            self._update_summary(trainer, status="finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write the status into the summary and release the lock."""
        if self._open:
            ends = {Preempted: "preempted", KeyboardInterrupt: "interrupted"}
            status = next((name for kind, name in ends.items() if isinstance(exception, kind)), "failed")
            error = {"error": f"{type(exception).__name__}: {exception}"} if status == "failed" else {}
            try:
                self._update_summary(trainer, status=status, **error)
            except ResourceError:  # the folder was deleted
                for each in _metrics_loggers(trainer):
                    each.discard()
            except OSError as full:
                logger.warning("summary.json cannot be written: %s", full.strerror)
            if status != "failed" and self._writes(trainer) and not (self._lock is not None and self._lock.lost):
                logger.warning("stopped at step %d. Resume with: imgrec resume %s", trainer.global_step, self.folder)
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Release the lock, unless ``held`` is True."""
        if not self.held:
            self._release()

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
        self._release()

    def check_folder(self) -> None:
        """Raise :class:`ResourceError` if the run folder was deleted or moved."""
        if self._lock is not None:
            self._lock.check()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the position in metrics.csv and the training time. Raise an error if the folder was deleted."""
        self.check_folder()
        if self.folder is None or not self._began:
            return
        rows = [each.gathered(open_log_step(trainer), logged_soon(trainer)) for each in _metrics_loggers(trainer)]
        checkpoint[_KEY] = {"row": rows[0], "seconds": self._seconds(), "folder": str(self.folder)}

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the predictions of ``trainer.validate``. During ``fit`` only metrics are written."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._write_evaluation(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the predictions of ``trainer.test``."""
        self._write_evaluation(trainer, pl_module, "test")

    def trained_checkpoint(self, trainer: pl.Trainer) -> str | None:
        """Return the best checkpoint, the last one without a best, or None without any."""
        return trained_checkpoint(trainer, self.folder)

    def _writes(self, trainer: pl.Trainer) -> bool:
        return self.folder is not None and trainer.is_global_zero and not _writes_nothing(trainer)

    def _update_summary(self, trainer: pl.Trainer, **values: Any) -> None:
        if self._writes(trainer):
            assert self.folder is not None
            self.check_folder()
            update_summary(self.folder, values)

    def _write_evaluation(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str) -> None:
        if self._writes(trainer) and isinstance(pl_module, BaseTask) and pl_module.predictions is not None:
            assert self.folder is not None
            with self.unwritten:
                log_evaluation_to_loggers(trainer, split, write_evaluation(self.folder, trainer, pl_module, split))


def _writes_nothing(trainer: pl.Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _metrics_loggers(trainer: pl.Trainer) -> list[MetricsLogger]:
    return [each for each in trainer.loggers if isinstance(each, MetricsLogger)]
