"""A training with everything around it: the run folder, the evaluation of the best checkpoint, the report."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from imgrec.engine.experiment import Engine

logger = logging.getLogger(__name__)

_INTERVAL = re.compile(r"`val_check_interval` \((\d+)\) must be less .* training batches \((\d+)\)")
"""Lightning's message of an interval that is longer than an epoch."""


def train(engine: Engine, checkpoint: str | Path | None, run: Path | None = None, resumption: Any = None) -> int:
    """Train from ``checkpoint`` on, then evaluate the best checkpoint and write the report.

    Args:
        engine: what the config builds.
        checkpoint: where training goes on from; ``None`` begins.
        run: the run folder to go on in; by default a new one is made.
        resumption: how it goes on there.
    """
    from imgrec.callbacks import RunRecorder, make_lean
    from imgrec.loggers.base import close_mirrors
    from imgrec.runs.load import read_checkpoint
    from imgrec.tasks import BaseTask

    if checkpoint is not None and isinstance(engine.task, BaseTask):
        engine.task.expect(read_checkpoint(Path(checkpoint)))
    if run is not None:
        _use_splits_of(run, engine, resumption)
    trainer = engine.settle()
    rehearsal = bool(trainer.fast_dev_run)
    config = engine.config
    recorder = RunRecorder(config["experiment"], config["runs"], engine.resolved, folder=run, resumption=resumption)
    trainer.callbacks.insert(0, recorder)
    make_lean(trainer, engine.task)
    recorder.held = True
    try:
        _fit(engine, checkpoint)
        if config["evaluate_after_fit"] and not trainer.interrupted:
            _evaluate_after_fit(engine, recorder, rehearsal)
        close_mirrors(trainer)
    except (KeyboardInterrupt, SystemExit):
        if trainer.is_global_zero and recorder.folder is not None and not trainer.interrupted:
            logger.warning("trained, but not evaluated; to continue: imgrec resume %s", recorder.folder)
        raise
    except (OSError, UserError):
        recorder.check_folder()  # a file that could not be written is the second message then
        raise
    finally:
        recorder.close()
    return 0


def _fit(engine: Engine, checkpoint: str | Path | None) -> None:
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from imgrec.tasks.single_image import MESSAGE, single_image_error

    try:
        engine.trainer.fit(engine.task, datamodule=engine.data, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    except ValueError as error:
        if MESSAGE in str(error):  # of a task that is not imgrec's, or of a batch that came unexpected
            raise single_image_error() from error
        found = _INTERVAL.search(str(error))
        if found is None:
            raise
        raise UserError(
            f"trainer.val_check_interval: expected at most {found[2]}, the batches of an epoch, got {found[1]}. "
            "To validate after a number of batches over several epochs, set trainer.check_val_every_n_epoch: null."
        ) from error


def _use_splits_of(run: Path, engine: Engine, resumption: Any) -> None:
    """Train with the split that a run folder stores: of the run itself, or of the run that it is made from."""
    from imgrec.data.splits.table import SplitTable
    from imgrec.runs.data import hold_to_run
    from imgrec.runs.folder import SPLITS_FILE, RunFolder

    stored = run / SPLITS_FILE
    if not stored.is_file() or not hasattr(engine.data, "use_splits"):
        return  # the fingerprint is compared when training begins
    if resumption is not None:
        hold_to_run(engine.data, RunFolder(run), resumption.changes_data)
    else:
        engine.data.use_splits(SplitTable.read(stored))


def _evaluate_after_fit(engine: Engine, recorder: Any, rehearsal: bool) -> None:
    from pytorch_lightning.callbacks import WeightAveraging

    from imgrec.cli.commands.report import write
    from imgrec.cli.results import print_results
    from imgrec.runs.folder import RunFolder

    trainer, data, task = engine.trainer, engine.data, engine.task
    # in a test, Lightning's averaging puts the weights of the last step in the place of the checkpoint's averages
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, WeightAveraging)]
    best = None if rehearsal else recorder.trained_checkpoint(trainer)
    results = evaluate_splits(trainer, task, data, best, ["validate", "test"])
    if rehearsal or recorder.folder is None:
        return
    if trainer.is_global_zero:
        run = RunFolder(recorder.folder)
        report = None
        with recorder.unwritten:
            report = write(run, data)
        print_results(results, run, report)
        recorder.unwritten.raise_first()


def evaluate_splits(
    trainer: pl.Trainer, task: Any, data: Any, checkpoint: str | Path | None, commands: list[str]
) -> dict[str, dict[str, float]]:
    """The figures of each split by name; a test split that the data lacks is left out."""
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
