"""From a merged config to a task, a data module and a trainer: LightningCLI, with imgrec's defaults and messages."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError, Namespace
from pytorch_lightning.callbacks import LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import MisconfigurationException

# imported so that a YAML may call them by their short names
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging  # noqa: F401  isort: skip
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger  # noqa: F401  isort: skip

from imgrec.callbacks import EpochProgress, PositionalSeeding
from imgrec.cli.config import Config
from imgrec.errors import UserError, suggestion
from imgrec.registry import check_type

DEFAULT_TASK = "imgrec.ClassificationTask"
DEFAULT_DATA = "imgrec.ImageDataModule"

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": False,  # metrics.csv is always written; others are switched on beside it
    "max_epochs": 20,
    "log_every_n_steps": 25,
    "enable_model_summary": False,  # the run folder and the epoch lines say it
    "use_distributed_sampler": False,  # ImageDataModule shards by position, and never pads
}

_NOISE = (
    "is smaller than the logging interval",
    "does not have many workers which may be a bottleneck",
    "Checkpoint directory .* exists and is not empty",
    "Starting from v1.9.0, `tensorboardX` has been removed",
    "You are using `torch.load` with `weights_only=False`",
    "isinstance\\(treespec, LeafSpec\\)",
    "Precision .* is not supported by the model summary",
    "GPU available but not used",
)


class Engine(LightningCLI):
    """What a config builds: ``model``, ``datamodule`` and ``trainer``; nothing is run yet.

    Args:
        config: merged, as :func:`imgrec.cli.config.merge` gives it.
        bare: for evaluation: no loggers, and of all callbacks only the progress.

    Raises:
        UserError: something in the config is unknown, missing or wrong; no data was read.
    """

    def __init__(self, config: Config, bare: bool = False) -> None:
        quiet_libraries()
        self.bare = bare
        try:
            super().__init__(
                model_class=pl.LightningModule,
                datamodule_class=pl.LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=None,
                seed_everything_default=0,
                trainer_defaults=TRAINER_DEFAULTS,
                parser_kwargs={"exit_on_error": False},
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # hyper-parameters are plain data already
                args=complete(config),
                run=False,
            )
        except MisconfigurationException as error:
            raise UserError(f"trainer: {error}") from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys beside Lightning's own."""
        parser.add_argument("--experiment", type=str, default="experiment", help="The name of the experiment.")
        parser.add_argument("--runs", type=str, default="runs", help="The folder of all runs.")
        parser.add_argument(
            "--evaluate_after_fit", type=bool, default=True, help="Evaluate the best checkpoint after training."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the config; a refusal names the nearest accepted words."""
        for key, value in args.items():
            if f"--{key}" not in parser._option_string_actions and not isinstance(value, Mapping):
                refuse_unknown(key, [a.dest for a in parser._actions if "." not in a.dest])
        try:
            self.config = parser.parse_object(args)
        except ArgumentError as error:
            raise UserError(explain(str(error), args)) from error

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer with imgrec's callbacks beside the given ones."""
        if self.bare:
            given: dict[str, Any] = {"callbacks": [EpochProgress()], "logger": False, "enable_checkpointing": False}
        else:
            callbacks = list(self._get(self.config_init, "trainer.callbacks") or [])
            given = {"callbacks": callbacks + default_callbacks(callbacks, self.config.trainer)}
        trainer: pl.Trainer = super().instantiate_trainer(**given, **kwargs)
        return trainer

    @property
    def resolved(self) -> str:
        """The whole config as YAML, defaults and all; ``imgrec fit --config`` on it repeats the run."""
        text: str = self.parser.dump(self.config, skip_link_targets=False, skip_none=False, format="yaml")
        return re.sub(r"^# pytorch_lightning==.*\n", "", text)


def default_callbacks(given: list[pl.Callback], trainer: Namespace) -> list[pl.Callback]:
    """The callbacks that every run has, but for kinds that the config brings itself."""
    defaults: list[pl.Callback] = [PositionalSeeding()]
    if trainer.enable_progress_bar is not False:
        defaults.append(EpochProgress())
    if not trainer.fast_dev_run:
        defaults.append(LearningRateMonitor(logging_interval="step"))
        if trainer.enable_checkpointing is not False:
            defaults.append(best_and_last())
    return [callback for callback in defaults if not any(isinstance(g, type(callback)) for g in given)]


def best_and_last() -> ModelCheckpoint:
    """``best.ckpt`` by validation accuracy, and ``last.ckpt``."""
    return ModelCheckpoint(
        monitor="val/acc",
        mode="max",
        filename="best",
        save_last=True,
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )


def complete(config: Config) -> Config:
    """``config`` with the default classes named, and specs without a name laid over the default spec."""
    done = dict(config)
    for key, default in (("model", DEFAULT_TASK), ("data", DEFAULT_DATA)):
        part = dict(done.get(key) or {})
        part.setdefault("class_path", default)
        part["init_args"] = _complete_specs(part["class_path"], dict(part.get("init_args") or {}))
        done[key] = part
    return done


def _complete_specs(class_path: str, arguments: Config) -> Config:
    parameters = _parameters(class_path)
    for name, value in arguments.items():
        default = parameters[name].default if name in parameters else None
        if isinstance(value, Mapping) and "name" not in value and isinstance(default, str) and name != "normalize":
            arguments[name] = {"name": default, **value}
    return arguments


def _parameters(class_path: str) -> dict[str, inspect.Parameter]:
    """The constructor arguments of a class and, where it passes on ``**kwargs``, of its bases."""
    found: dict[str, inspect.Parameter] = {}
    for base in _import(class_path).__mro__:
        if "__init__" in vars(base) and base not in (pl.LightningModule, pl.LightningDataModule):
            parameters = inspect.signature(base.__init__).parameters
            found = {n: p for n, p in parameters.items() if n != "self"} | found
            if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
                break
    return {n: p for n, p in found.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}


def _import(class_path: str) -> type:
    from importlib import import_module

    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module or "imgrec"), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"class_path: {class_path} cannot be imported: {error}") from error
    if not isinstance(found, type):
        raise UserError(f"class_path: {class_path} is no class")
    return found


def refuse_unknown(key: str, accepted: list[str], where: str = "") -> None:
    """Raise UserError for a key that nothing takes, with the nearest accepted ones."""
    place = f"{where}: " if where else ""
    raise UserError(
        f'{place}there is no key "{key}".{suggestion(key, accepted)} Accepted: {", ".join(sorted(accepted))}.'
    )


def explain(message: str, config: Mapping[str, Any]) -> str:
    """Jsonargparse's refusal in one plain sentence, the place first."""
    for key in ("model", "data"):
        part = config.get(key) or {}
        accepted = _parameters(part["class_path"])
        for name, value in part.get("init_args", {}).items():
            if name not in accepted:
                refuse_unknown(name, list(accepted), key)
            check_type(value, accepted[name].annotation, f"{key}.{name}")
    trainer = config.get("trainer")
    if isinstance(trainer, Mapping):
        known = inspect.signature(pl.Trainer.__init__).parameters
        for name in trainer:
            if name not in known:
                refuse_unknown(name, [k for k in known if k != "self"], "trainer")
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return re.sub(r"^Parser key \"?([\w.]+)\"?:\s*", r"\1: ", " ".join(lines))


def quiet_libraries() -> None:
    """Silence what Lightning says on every run and nobody needs to hear twice."""
    for text in _NOISE:
        warnings.filterwarnings("ignore", f".*{text}")
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.utilities.seed").setLevel(logging.WARNING)
