"""Training of an experiment: the run folder, the evaluation of the best checkpoint, the report."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import ResourceError, UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from imgrec.engine.experiment import Experiment
    from imgrec.runs.folder import RunFolder

logger = logging.getLogger(__name__)

_INTERVAL = re.compile(r"`val_check_interval` \((\d+)\) must be less .* training batches \((\d+)\)")
"""Message of Lightning for an interval that is longer than an epoch."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Args:
        run: Run folder, or ``None`` after ``trainer.fast_dev_run``.
        metrics: Metrics of the best checkpoint by split, for example ``metrics["test"]["acc"]``. Empty without
            ``evaluate_after_fit``, after an interruption, and in processes other than the first.
        report: Path of report.html. Defaults to ``None``.
        error: First failure to write a result. Defaults to ``None``.
    """

    run: RunFolder | None
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    report: Path | None = None
    error: ResourceError | None = None

    def folder(self) -> RunFolder:
        """Return the run folder.

        Raises:
            ResourceError: If a result could not be written.
            UserError: If the training has no run folder because of ``trainer.fast_dev_run``.
        """
        if self.error is not None:
            raise self.error
        if self.run is None:
            raise UserError("trainer.fast_dev_run: expected false for a run folder, got true.")
        return self.run


def train(
    experiment: Experiment, checkpoint: str | Path | None, run: Path | None = None, resumption: Any = None
) -> TrainingResult:
    """Train, evaluate the best checkpoint and write the report.

    Args:
        experiment: Built experiment.
        checkpoint: Checkpoint to continue from. ``None`` starts a new training.
        run: Run folder to continue in. Defaults to a new folder.
        resumption: State of the resumed run. Defaults to ``None``.
    """
    from imgrec.callbacks import RunRecorder, remove_hook_overhead
    from imgrec.loggers.base import close_loggers
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.load import read_checkpoint
    from imgrec.tasks import BaseTask

    if checkpoint is not None and isinstance(experiment.task, BaseTask):
        experiment.task.prepare_for_checkpoint(read_checkpoint(Path(checkpoint)))
    if run is not None:
        _use_splits_of(run, experiment, resumption)
    trainer = experiment.resolve_auto()
    config = experiment.config
    recorder = RunRecorder(config["experiment"], config["runs"], experiment.resolved, folder=run, resumption=resumption)
    trainer.callbacks.insert(0, recorder)
    remove_hook_overhead(trainer, experiment.task)
    recorder.held = True
    metrics: dict[str, dict[str, float]] = {}
    report = None
    try:
        _fit(experiment, checkpoint)
        if config["evaluate_after_fit"] and not trainer.interrupted:
            metrics, report = _evaluate_after_fit(experiment, recorder)
        close_loggers(trainer)
        if recorder.unwritten.error is not None:
            recorder.check_folder()
    except (KeyboardInterrupt, SystemExit):
        if trainer.is_global_zero and recorder.folder is not None and not trainer.interrupted:
            logger.warning("The run is trained, but not evaluated. To continue: imgrec resume %s", recorder.folder)
        raise
    except (OSError, UserError):
        recorder.check_folder()  # a deleted folder is the cause of the other error
        raise
    finally:
        recorder.close()
    found = None if recorder.folder is None or trainer.fast_dev_run else RunFolder(recorder.folder)
    return TrainingResult(found, metrics, report, recorder.unwritten.error if metrics else None)


def _fit(experiment: Experiment, checkpoint: str | Path | None) -> None:
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from imgrec.tasks.compatibility import SINGLE_IMAGE_MESSAGE, single_image_error

    try:
        experiment.trainer.fit(experiment.task, datamodule=experiment.data, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    except ValueError as error:
        if SINGLE_IMAGE_MESSAGE in str(error):  # of a task of another class, or of an unexpected batch
            raise single_image_error() from error
        found = _INTERVAL.search(str(error))
        if found is None:
            raise
        raise UserError(
            f"trainer.val_check_interval: expected at most {found[2]}, the batches of an epoch, got {found[1]}. "
            "To validate after a number of batches over several epochs, set trainer.check_val_every_n_epoch: null."
        ) from error


def _use_splits_of(run: Path, experiment: Experiment, resumption: Any) -> None:
    """Train with the split that a run folder stores: the split of the run itself or of its parent."""
    from imgrec.data.splits.table import SplitTable
    from imgrec.runs.data import set_up_run_data
    from imgrec.runs.folder import SPLITS_FILE, RunFolder

    stored = run / SPLITS_FILE
    if not stored.is_file() or not hasattr(experiment.data, "use_splits"):
        return  # the fingerprint is compared at the start of training
    if resumption is not None:
        set_up_run_data(experiment.data, RunFolder(run), resumption.changes_data)
    else:
        experiment.data.use_splits(SplitTable.read(stored))


def _evaluate_after_fit(experiment: Experiment, recorder: Any) -> tuple[dict[str, dict[str, float]], Path | None]:
    """Evaluate the best checkpoint and write the report. Return the metrics by split and the path of the report."""
    from pytorch_lightning.callbacks import WeightAveraging

    from imgrec.reports.report import write_report_with_images
    from imgrec.runs.folder import RunFolder

    trainer, data, task = experiment.trainer, experiment.data, experiment.task
    # in a test, WeightAveraging of Lightning replaces the averages of the checkpoint by the weights of the last step
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, WeightAveraging)]
    best = None if trainer.fast_dev_run else recorder.trained_checkpoint(trainer)
    metrics = evaluate_splits(trainer, task, data, best, ["validate", "test"])
    if trainer.fast_dev_run or recorder.folder is None or not trainer.is_global_zero:
        return {}, None
    report = None
    with recorder.unwritten:
        report = write_report_with_images(RunFolder(recorder.folder), data)
    return metrics, report


def evaluate_splits(
    trainer: pl.Trainer, task: Any, data: Any, checkpoint: str | Path | None, commands: list[str]
) -> dict[str, dict[str, float]]:
    """Return the metrics by split. Splits without images are skipped if there are several commands."""
    results: dict[str, dict[str, float]] = {}
    for command in commands:
        split = {"validate": "val"}.get(command, command)
        sizes = data.split_sizes() if hasattr(data, "split_sizes") and len(commands) > 1 else {}
        if sizes and not sizes.get(split):
            continue
        getattr(trainer, command)(task, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True)
        prefix = f"{split}/"
        results[split] = {
            k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)
        }
    return results
