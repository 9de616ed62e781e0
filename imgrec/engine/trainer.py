"""Lightning's Trainer with the default callbacks, the loggers and the checkpoint plugin of imgrec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import CheckpointIO

from imgrec import trust
from imgrec.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    EpochProgress,
    LastCheckpoint,
    MetricNameCheck,
    PositionalSeeding,
    RankWatch,
    ResumeState,
    SystemMonitor,
)
from imgrec.engine.config import Config
from imgrec.engine.devices import check_devices, prepare_devices
from imgrec.engine.instantiate import build_arguments, instantiate
from imgrec.engine.tuning.auto_precision import parse_precision
from imgrec.errors import UserError
from imgrec.utils.signature import Entry


def build_trainer(config: Config, bare: bool) -> pl.Trainer:
    """Build the Trainer of a resolved config.

    Args:
        config: Value of ``trainer`` in the resolved config.
        bare: If true, use no loggers, no checkpoints, and no callbacks except those of progress.

    Raises:
        UserError: If an argument is invalid, or if received data would write outside the run folder.
    """
    given = dict(config)
    if bare:  # an evaluation writes no profile and no file of Lightning
        given |= {"profiler": None, "plugins": None, "default_root_dir": None}
    elif given.get("default_root_dir") is not None:
        place = f"trainer.default_root_dir: got {given['default_root_dir']!r}"
        trust.refuse_unless_trusted(place, "it may write outside the run folder")
    callbacks = given.pop("callbacks", None) or []
    logger = given.pop("logger", None)
    given["precision"] = parse_precision(given.get("precision"))
    arguments = build_arguments(Entry("Trainer", pl.Trainer), given, "trainer")
    if bare:
        bar = [EpochProgress()] if arguments.get("enable_progress_bar") is not False else []
        arguments |= {"callbacks": [*bar, RankWatch()], "logger": False, "enable_checkpointing": False}
    else:
        arguments["callbacks"] = build_callbacks(callbacks, arguments)
        arguments["logger"] = build_loggers(logger)
        arguments["plugins"] = with_checkpoint_io(arguments.get("plugins"), arguments.get("strategy"))
    prepare_devices(arguments)
    try:
        trainer = pl.Trainer(**arguments)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"trainer: {error}") from error
    check_devices(trainer)
    return trainer


def build_callbacks(value: Any, trainer: Mapping[str, Any]) -> list[pl.Callback]:
    """Build the callbacks of a config and add the defaults. The callbacks that store the position of a run are first.

    Args:
        value: One callback or a list of them, each a class name or a mapping with ``class_path``.
        trainer: Arguments of the Trainer.
    """
    listed = value if isinstance(value, list) else [value]
    named = [instantiate(each, pl.Callback, f"trainer.callbacks[{i}]") for i, each in enumerate(listed)]
    return sorted(named + default_callbacks(named, trainer), key=_order)


def build_loggers(value: Any) -> Any:
    """Build the loggers that are used in addition to metrics.csv.

    Args:
        value: False for none, true for the default logger of Lightning, or one logger or a list of them.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    listed = value if isinstance(value, list) else [value]
    place = "trainer.logger[{}]" if isinstance(value, list) else "trainer.logger"
    return [instantiate(each, Logger, place.format(i)) for i, each in enumerate(listed)]


def default_callbacks(callbacks: list[Any], trainer: Mapping[str, Any]) -> list[Any]:
    """Return the callbacks of every run, without the kinds that the config names itself.

    Args:
        callbacks: Callbacks of the config.
        trainer: Arguments of the Trainer.
    """
    defaults: list[pl.Callback] = [PositionalSeeding(), MetricNameCheck(), RankWatch()]
    if trainer.get("enable_progress_bar") is not False:
        defaults.append(EpochProgress())
    if not trainer.get("fast_dev_run"):
        defaults += [LearningRateMonitor(logging_interval="step"), SystemMonitor()]
        if trainer.get("enable_checkpointing") is not False:
            defaults += best_and_last()
    replaced_by: dict[type, type] = {BestCheckpoint: ModelCheckpoint}
    return [
        each for each in defaults if not any(isinstance(c, replaced_by.get(type(each), type(each))) for c in callbacks)
    ]


def with_checkpoint_io(plugins: Any, strategy: Any) -> Any:
    """Return the plugins with the atomic checkpoint writer of imgrec, unless the config names a writer."""
    listed = [] if plugins is None else plugins if isinstance(plugins, list) else [plugins]
    is_named = any(isinstance(each, CheckpointIO) for each in listed) or getattr(strategy, "_checkpoint_io", None)
    return plugins if is_named else [*listed, AtomicCheckpointIO()]


def best_and_last() -> list[pl.Callback]:
    """Return the callbacks that write ``best.ckpt`` by validation accuracy and ``last.ckpt`` for resuming."""
    return [BestCheckpoint(), LastCheckpoint(), ResumeState()]


def _order(callback: pl.Callback) -> int:
    return next((i for i, kind in enumerate((ResumeState, LastCheckpoint)) if isinstance(callback, kind)), 2)
