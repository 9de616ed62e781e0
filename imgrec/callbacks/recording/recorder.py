"""The run recorder: everything that a run was and said, in its folder, in open formats."""

from __future__ import annotations

import logging
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn

from imgrec.callbacks.checkpoints.exact_resume import logged_soon, open_log_step
from imgrec.callbacks.checkpoints.last import LastCheckpoint
from imgrec.callbacks.recording.outputs import (
    best_epoch,
    config_of,
    moved,
    said_of_weights,
    write_evaluation,
    write_model,
)
from imgrec.errors import ResourceError
from imgrec.loggers.base import begin_mirrors, mirror_evaluation, mute_mirrors, resume_mirrors
from imgrec.loggers.csv import MetricsLogger
from imgrec.runs.checkpoints import LAST, remove_unfinished
from imgrec.runs.data import store_splits
from imgrec.runs.environment import describe_environment
from imgrec.runs.folder import CONFIG, ENVIRONMENT, SPLITS_FILE, create_run_folder
from imgrec.runs.lock import RunLock
from imgrec.runs.metrics_csv import read_metrics
from imgrec.runs.resume import Resumption, check_data, differences, note_resumption
from imgrec.runs.summary import SUMMARY, read_json, update_summary, write_json
from imgrec.runs.system import system_totals
from imgrec.tasks import BaseTask
from imgrec.tasks.callback import imgrec_callbacks
from imgrec.utils.paths import Postponed, write_text
from imgrec.utils.seeding import run_seed
from imgrec.utils.signals import Preempted
from imgrec.utils.terminal import print

logger = logging.getLogger(__name__)

_KEY = "imgrec_run"


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
        folder: an existing run folder to add evaluations to, or to train in, instead of making a new one. What its
            environment.json says beside what is written there, its parent say, stays.
        resumption: how training goes on in that folder.

    Raises:
        UserError: another process trains in the folder; or its data has changed.
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
        self._homeless: list[ModelCheckpoint | LastCheckpoint] = []
        self._open = False
        self._lock: RunLock | None = None
        self.held = False
        """True to keep the folder after training until :meth:`close`, for an evaluation by the same process."""
        self._loaded: dict[str, Any] | None = None
        self.unwritten = Postponed()
        """A failure to write an evaluation, which is raised once its results were printed."""

    # ---------------------------------------------------------------- begin

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Note which checkpoints need a folder; it is made later, once nothing can be refused any more."""
        mute_mirrors(trainer, stage == TrainerFn.VALIDATING)
        for each in _metrics_loggers(trainer):
            each.muted = stage == TrainerFn.VALIDATING  # the curve of the epochs stands already
        if _idle(trainer) or stage != TrainerFn.FITTING:
            return
        home = self.root if self.folder is None else self.folder
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint | LastCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(home / "checkpoints")  # not to be asked of the loggers, it starts them
                self._homeless.append(callback)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep what the folder goes on with; the folder may stand elsewhere than it did."""
        if self.resumption is None:
            return
        self._loaded = checkpoint.get(_KEY)
        if self._loaded is not None and self.folder is not None:
            places = (self._loaded["folder"], str(self.folder))
            checkpoint["callbacks"] = moved(checkpoint.get("callbacks", {}), *places)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Make the folder, once, or go on in it, and hang the metrics log into the trainer."""
        for each in imgrec_callbacks(trainer):
            each.validate_model(trainer, pl_module)
        if _idle(trainer):
            return
        if self.resumption is not None:
            self._go_on(trainer, self.resumption)
        elif self.folder is None:
            made = create_run_folder(self.root, self.experiment) if trainer.is_global_zero else self.root
            self.folder = trainer.strategy.broadcast(made)
            self._begin(trainer, pl_module)
        elif not self._open:
            self._begin(trainer, pl_module)
        assert self.folder is not None
        for callback in self._homeless:
            callback.dirpath = str(self.folder / "checkpoints")
        if not _metrics_loggers(trainer):
            trainer.loggers = [MetricsLogger(self.folder), *trainer.loggers]
        begin_mirrors(trainer, self.folder)
        self._open = True

    def _begin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.folder is not None
        if trainer.is_global_zero:
            self._lock = RunLock(self.folder)
            self._write_origin(trainer, pl_module)
            store_splits(self.folder, trainer.datamodule)  # type: ignore[attr-defined]
            print(f"run {self.folder}", flush=True)

    def _go_on(self, trainer: pl.Trainer, resumption: Resumption) -> None:
        assert self.folder is not None
        fingerprint = getattr(trainer.datamodule, "fingerprint", None)  # type: ignore[attr-defined]
        if not (self.folder / SPLITS_FILE).is_file():
            check_data(self.folder, fingerprint, resumption.allowed)
        if not trainer.is_global_zero:
            return
        self._lock = RunLock(self.folder)
        remove_unfinished(self.folder)
        now = self._environment(fingerprint)
        changed = differences(read_json(self.folder / ENVIRONMENT), now)
        if changed:
            logger.warning("the run may not end as it would have, it stands on something else: %s", "; ".join(changed))
        if resumption.changed and self.config is not None:
            write_text(self.folder / CONFIG, self.config)
        note_resumption(self.folder, now, resumption, trainer.world_size)
        store_splits(self.folder, trainer.datamodule, again=resumption.changes_data)  # type: ignore[attr-defined]
        summary = read_json(self.folder / SUMMARY) if (self.folder / SUMMARY).is_file() else {}
        forgotten = {"error": None} if "error" in summary else {}
        update_summary(self.folder, {"resumed": [*summary.get("resumed", []), resumption.step], **forgotten})
        start = resumption.start
        where = "from the beginning" if start is None else f"from {start.path.name}: epoch {start.epoch + 1}"
        print(f"run {self.folder}\n{where}, step {resumption.step}", flush=True)

    def _environment(self, fingerprint: str | None) -> dict[str, Any]:
        return describe_environment(
            command=[Path(sys.argv[0]).name, *sys.argv[1:]],
            seed=run_seed(),
            fingerprint=fingerprint,
            experiment=self.experiment,
            started=datetime.now(UTC),
        )

    def _write_origin(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.folder is not None
        write_text(self.folder / CONFIG, self.config or config_of(trainer, pl_module))
        if (taken := getattr(pl_module, "taken", None)) is not None:  # a start from what fits of another network
            write_json(self.folder / "init_from.json", taken.to_dict())
        environment = self._environment(getattr(trainer.datamodule, "fingerprint", None))  # type: ignore[attr-defined]
        made_for_this = self.folder / ENVIRONMENT
        write_json(made_for_this, (read_json(made_for_this) if made_for_this.is_file() else {}) | environment)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the size of what is trained; go on with the metrics where the checkpoint stands."""
        self._began = time.perf_counter()
        self._go_on_with_metrics(trainer)
        data = trainer.datamodule  # type: ignore[attr-defined]
        scaling = getattr(pl_module, "lr_scaling", None)
        self._summarise(
            trainer,
            status="running",
            parameters=sum(p.numel() for p in pl_module.parameters()),
            split_sizes=data.split_sizes() if hasattr(data, "split_sizes") else {},
            **({"learning_rate": scaling.to_dict()} if scaling is not None else {}),
        )

    def _go_on_with_metrics(self, trainer: pl.Trainer) -> None:
        if self.resumption is not None and not _idle(trainer):
            before = self._loaded or {"row": {"step": 0, "epoch": 0, "values": {}}, "seconds": 0.0}
            self._seconds_before = before["seconds"]
            for each in _metrics_loggers(trainer):
                each.go_on(before["row"])
            resume_mirrors(trainer, self.folder, before["row"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End the training if its folder is gone; whether it is, a thread finds out."""
        if self._lock is not None and self._lock.lost:
            self._lock.check()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The figures of the epoch before are complete: put them on disk."""
        self.check_folder()
        for each in _metrics_loggers(trainer):
            each.flush()

    # ---------------------------------------------------------------- end

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time that training took."""
        self._summarise(
            trainer,
            train_seconds=round(self._seconds(), 3),
            epochs=trainer.current_epoch,
            steps=trainer.global_step,
            skipped_images=getattr(trainer.datamodule, "skipped", {}),  # type: ignore[attr-defined]
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the model folder from the best checkpoint; the run is finished."""
        if not self._began:  # all training was done before: only the rows of its evaluation are written again
            self._go_on_with_metrics(trainer)
        if self._writes(trainer):
            assert self.folder is not None
            best = best_epoch(trainer)
            named = {"checkpoint": self._inside(self.trained_checkpoint(trainer))}
            self._summarise(trainer, **best, **named, system=self._system_totals(trainer))
            write_model(
                self.folder,
                pl_module,
                self.trained_checkpoint(trainer),
                said_of_weights(self.experiment, best),
                trainer.datamodule,  # type: ignore[attr-defined]
            )
            self._summarise(trainer, status="finished")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say in the summary how the run ended; give the folder back."""
        if self._open:
            ends = {Preempted: "preempted", KeyboardInterrupt: "interrupted"}
            status = next((said for kind, said in ends.items() if isinstance(exception, kind)), "failed")
            error = {"error": f"{type(exception).__name__}: {exception}"} if status == "failed" else {}
            try:
                self._summarise(trainer, status=status, **error)
            except ResourceError:  # there is no folder any more
                for each in _metrics_loggers(trainer):
                    each.discard()
            except OSError as full:
                logger.warning("summary.json cannot be written: %s", full.strerror)
            if status != "failed" and self._writes(trainer) and not (self._lock is not None and self._lock.lost):
                logger.warning("stopped at step %d; to go on: imgrec resume %s", trainer.global_step, self.folder)
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the folder back, unless it is held."""
        if not self.held:
            self._release()

    def close(self) -> None:
        """Give the folder back; a second time does nothing."""
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
        """Add how far metrics.csv is, and how long training has taken; write none if the folder is gone."""
        self.check_folder()
        if self.folder is None or not self._began:
            return
        rows = [each.gathered(open_log_step(trainer), logged_soon(trainer)) for each in _metrics_loggers(trainer)]
        checkpoint[_KEY] = {"row": rows[0], "seconds": self._seconds(), "folder": str(self.folder)}

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._began

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the predictions of ``trainer.validate``; the epochs of ``fit`` leave metrics alone."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._keep_evaluation(trainer, pl_module, "val")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the predictions of ``trainer.test``."""
        self._keep_evaluation(trainer, pl_module, "test")

    def trained_checkpoint(self, trainer: pl.Trainer) -> str | None:
        """The checkpoint that the figures after training are of: the best, else the last; ``None`` without any."""
        callback = trainer.checkpoint_callback
        best = callback.best_model_path if isinstance(callback, ModelCheckpoint) else ""
        last = None if self.folder is None else self.folder / "checkpoints" / LAST
        there = [str(path) for path in (best, last) if path and Path(path).is_file()]
        return there[0] if there else None

    def _inside(self, path: str | None) -> str | None:
        """``path`` as the run folder knows it, so that it may be moved; one elsewhere stays as it is."""
        assert self.folder is not None
        if path is not None and Path(path).resolve().is_relative_to(self.folder.resolve()):
            return Path(path).resolve().relative_to(self.folder.resolve()).as_posix()
        return path

    # ---------------------------------------------------------------- write

    def _system_totals(self, trainer: pl.Trainer) -> dict[str, float]:
        assert self.folder is not None
        for each in _metrics_loggers(trainer):
            each.flush()
        path = self.folder / "metrics.csv"
        return system_totals(read_metrics(path)) if path.is_file() else {}

    def _writes(self, trainer: pl.Trainer) -> bool:
        return self.folder is not None and trainer.is_global_zero and not _idle(trainer)

    def _summarise(self, trainer: pl.Trainer, **values: Any) -> None:
        if self._writes(trainer):
            assert self.folder is not None
            self.check_folder()
            update_summary(self.folder, values)

    def _keep_evaluation(self, trainer: pl.Trainer, pl_module: pl.LightningModule, split: str) -> None:
        if self._writes(trainer) and isinstance(pl_module, BaseTask) and pl_module.predictions is not None:
            assert self.folder is not None
            with self.unwritten:
                mirror_evaluation(trainer, split, write_evaluation(self.folder, trainer, pl_module, split))


def _idle(trainer: pl.Trainer) -> bool:
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def _metrics_loggers(trainer: pl.Trainer) -> list[MetricsLogger]:
    return [each for each in trainer.loggers if isinstance(each, MetricsLogger)]
