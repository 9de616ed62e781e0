"""From a merged config to a task, a data module and a trainer, with imgrec's defaults and messages."""

from __future__ import annotations

import logging
import random
import sys
import warnings
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins import CheckpointIO

from imgrec import trust
from imgrec.callbacks import (
    BestCheckpoint,
    EpochProgress,
    ExactResume,
    LastCheckpoint,
    MonitorCheck,
    PositionalSeeding,
    RankWatch,
    SystemFigures,
    WholeCheckpointIO,
)
from imgrec.engine.auto_precision import settle, until_settled
from imgrec.engine.config import Config
from imgrec.engine.devices import check_devices, prepare_devices
from imgrec.engine.instantiate import check_arguments, find_class, instantiate
from imgrec.errors import UserError, suggestion
from imgrec.runs.specs import complete_config
from imgrec.utils import yaml
from imgrec.utils.signature import Entry, check_type
from imgrec.utils.terminal import EscapingFormatter, escape_warnings

TOP_LEVEL: dict[str, tuple[Any, Any]] = {
    "experiment": (str, "experiment"),
    "runs": (str, "runs"),
    "seed_everything": (bool | int, 0),
    "evaluate_after_fit": (bool, True),
}

PARTS: dict[str, tuple[type, str]] = {
    "model": (pl.LightningModule, "imgrec.ClassificationTask"),
    "data": (pl.LightningDataModule, "imgrec.ImageDataModule"),
}

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": False,  # metrics.csv is always written; others are switched on beside it
    "max_epochs": 20,
    "log_every_n_steps": 25,
    "precision": "auto",  # see imgrec.engine.auto_precision
    "enable_model_summary": False,  # the run folder and the epoch lines say it
    "use_distributed_sampler": False,  # ImageDataModule shards by position, and never pads
}

_NOISE = (
    "is smaller than the logging interval",
    "does not have many workers which may be a bottleneck",
    "Checkpoint directory .* exists and is not empty",
    "Starting from v1.9.0, `tensorboardX` has been removed",
    "isinstance\\(treespec, LeafSpec\\)",
    "callbacks used to create the checkpoint need to be provided",
    "The dirpath has changed from .* won't be reloaded",  # a resumed run has a folder of its own
    "monitor='val/acc'.* could not find the monitored key",  # stopped in the middle of the first epoch
    "WeightAveraging callback with a model that overrides the configure_model",
    "It is recommended to use `self.log\\(.*sync_dist=True",  # the figures are over all processes already
    "FSDP2-wrapped module .* returned a view tensor",  # nothing is done to it in place
)


class Engine:
    """What a config builds: ``task``, ``data`` and ``trainer``; nothing is run yet, and no data is read.

    Args:
        config: merged, as :func:`imgrec.engine.config.merge` gives it.
        bare: for evaluation: no loggers, and of all callbacks only the progress.

    Raises:
        UserError: something in the config is unknown, missing or wrong.
    """

    def __init__(self, config: Config, bare: bool = False) -> None:
        quiet_libraries()
        with trust.reading("the config of the run") if trust.current() is not None else nullcontext():
            self._build(config, bare)

    def _build(self, config: Config, bare: bool) -> None:
        self.config = resolve(config)
        pl.seed_everything(self.config["seed_everything"], verbose=False)
        self.data: Any = instantiate(self.config["data"], pl.LightningDataModule, "data")
        self.task: Any = instantiate(self.config["model"], pl.LightningModule, "model")
        if not bare and (check := getattr(self.task, "check_data_module", None)) is not None:
            check(self.data)
        self.trainer: Any = build_trainer(self.config["trainer"], bare)

    def settle(self) -> Any:
        """Put values in the place of ``auto``, for which the data is read; the trainer that is to be used then."""
        if settle(self):
            self.trainer = build_trainer(self.config["trainer"], bare=False)
        return self.trainer

    @property
    def resolved(self) -> str:
        """The whole config as YAML, with every default of every spec; ``imgrec fit --config`` on it repeats the run."""
        return yaml.dump(self.config)


def resolve(config: Config) -> Config:
    """Return the config with every default of every class and every spec, and every key known."""
    accepted = [*TOP_LEVEL, *PARTS, "trainer"]
    for key in config:
        if key not in accepted:
            raise UserError(f'there is no key "{key}".{suggestion(key, accepted)} Accepted: {", ".join(accepted)}.')
    done = {key: check_type(config.get(key, default), hint, key) for key, (hint, default) in TOP_LEVEL.items()}
    if isinstance(done["seed_everything"], bool):
        if not done["seed_everything"]:
            raise UserError("seed_everything: expected a number, or true for a random one, got false")
        done["seed_everything"] = random.SystemRandom().randrange(2**32)
    if not 0 <= done["seed_everything"] < 2**32:
        raise UserError(f"seed_everything: accepted are 0 to {2**32 - 1}, got {done['seed_everything']}")
    for key, (base, default) in PARTS.items():
        part = config.get(key) or {}
        if not isinstance(part, Mapping):
            raise UserError(f"{key}: expected a mapping, got {part!r}")
        class_path = part.get("class_path") or default
        cls = find_class(class_path, base, key)
        done[key] = {"class_path": class_path, "init_args": with_defaults(cls, part.get("init_args") or {})}
    trainer = config.get("trainer") or {}
    if not isinstance(trainer, Mapping):
        raise UserError(f"trainer: expected a mapping, got {trainer!r}")
    done["trainer"] = {**with_defaults(pl.Trainer, {}), **TRAINER_DEFAULTS, **trainer}
    return complete_config(done)


def with_defaults(cls: type, given: Mapping[str, Any]) -> Config:
    """The arguments of a class, its defaults first; a spec without a name changes the default spec."""
    arguments = {}
    for name, parameter in Entry(cls.__name__, cls).parameters.items():
        default = parameter.default
        value = given.get(name, default)
        spec = isinstance(default, str) and isinstance(value, Mapping) and "name" not in value
        if spec and name != "normalize":
            value = {"name": default, **value}
        if value is not parameter.empty:
            arguments[name] = value
    for state in ("facts", "load_weights", "num_classes", "class_names"):  # of a checkpoint, or of a plain DataLoader
        if state not in given:
            arguments.pop(state, None)
    return {**arguments, **{k: v for k, v in given.items() if k not in arguments}}


def build_trainer(config: Config, bare: bool) -> pl.Trainer:
    """Lightning's Trainer with imgrec's callbacks beside the given ones."""
    given = dict(config)
    if bare:  # an evaluation has no profile and writes no file of Lightning's
        given |= {"profiler": None, "plugins": None, "default_root_dir": None}
    elif given.get("default_root_dir") is not None:
        place = f"trainer.default_root_dir: got {given['default_root_dir']!r}"
        trust.refuse_unless_trusted(place, "it may write outside the run folder")
    callbacks = given.pop("callbacks", None) or []
    logger = given.pop("logger", None)
    given["precision"] = until_settled(given.get("precision"))
    arguments = check_arguments(Entry("Trainer", pl.Trainer), given, "trainer")
    if bare:
        bar = [EpochProgress()] if arguments.get("enable_progress_bar") is not False else []
        arguments |= {"callbacks": [*bar, RankWatch()], "logger": False, "enable_checkpointing": False}
    else:
        listed = callbacks if isinstance(callbacks, list) else [callbacks]
        own = [instantiate(c, pl.Callback, f"trainer.callbacks[{i}]") for i, c in enumerate(listed)]
        # what says where a run stands comes before all that happens at a step
        arguments["callbacks"] = sorted(own + default_callbacks(own, arguments), key=_place)
        arguments["logger"] = build_loggers(logger)
        arguments["plugins"] = with_checkpoint_io(arguments.get("plugins"), arguments.get("strategy"))
    prepare_devices(arguments)
    try:
        trainer = pl.Trainer(**arguments)
    except (MisconfigurationException, ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"trainer: {error}") from error
    check_devices(trainer)
    return trainer


def build_loggers(value: Any) -> Any:
    """The loggers beside metrics.csv: none, Lightning's default, or those that are named."""
    if value is None or isinstance(value, bool):
        return bool(value)
    listed = value if isinstance(value, list) else [value]
    place = "trainer.logger[{}]" if isinstance(value, list) else "trainer.logger"
    return [instantiate(each, Logger, place.format(i)) for i, each in enumerate(listed)]


def default_callbacks(given: list[Any], trainer: Mapping[str, Any]) -> list[Any]:
    """The callbacks that every run has, but for kinds that the config brings itself."""
    defaults: list[pl.Callback] = [PositionalSeeding(), MonitorCheck(), RankWatch()]
    if trainer.get("enable_progress_bar") is not False:
        defaults.append(EpochProgress())
    if not trainer.get("fast_dev_run"):
        defaults += [LearningRateMonitor(logging_interval="step"), SystemFigures()]
        if trainer.get("enable_checkpointing") is not False:
            defaults += best_and_last()
    kinds: dict[type, type] = {
        BestCheckpoint: ModelCheckpoint
    }  # any checkpoint of one's own takes the place of the best
    return [c for c in defaults if not any(isinstance(g, kinds.get(type(c), type(c))) for g in given)]


def _place(callback: pl.Callback) -> int:
    return next((i for i, kind in enumerate((ExactResume, LastCheckpoint)) if isinstance(callback, kind)), 2)


def with_checkpoint_io(plugins: Any, strategy: Any) -> Any:
    """The plugins, with imgrec's way of writing checkpoints where the config names no other."""
    listed = [] if plugins is None else plugins if isinstance(plugins, list) else [plugins]
    given = any(isinstance(each, CheckpointIO) for each in listed) or getattr(strategy, "_checkpoint_io", None)
    return plugins if given else [*listed, WholeCheckpointIO()]


def best_and_last() -> list[pl.Callback]:
    """``best.ckpt`` by validation accuracy, and ``last.ckpt``, from which the run goes on."""
    return [BestCheckpoint(), LastCheckpoint(), ExactResume()]


class _Stderr(logging.StreamHandler[Any]):
    """Writes to whatever stderr is at the moment."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> Any:
        return sys.stderr


def quiet_libraries() -> None:
    """Silence what Lightning says on every run and nobody needs to hear twice; let imgrec say what it decides."""
    ours = logging.getLogger("imgrec")
    ours.setLevel(logging.INFO)
    if not ours.handlers:
        handler = _Stderr()
        handler.setFormatter(EscapingFormatter())
        ours.addHandler(handler)
    if not logging.getLogger().handlers:
        # Without a handler at the root, a library that calls logging.warning() gives it one that prints every message
        # of imgrec a second time. This one prints what Python prints by default: warnings of others.
        others = _Stderr()
        others.setLevel(logging.WARNING)
        others.addFilter(lambda record: record.name.partition(".")[0] != "imgrec")
        others.setFormatter(EscapingFormatter())
        logging.getLogger().addHandler(others)
    escape_warnings()
    for text in _NOISE:
        warnings.filterwarnings("ignore", f".*{text}")
    for name in ("pytorch_lightning.utilities.rank_zero", "lightning_fabric.utilities.seed"):
        logging.getLogger(name).setLevel(logging.WARNING)
