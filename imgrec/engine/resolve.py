"""Resolved config: the given values with every default of every class and every spec."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl

from imgrec.engine.config import Config
from imgrec.engine.instantiate import find_class
from imgrec.errors import UserError, suggestion
from imgrec.runs.config import complete_config
from imgrec.utils.signature import Entry, check_type

TOP_LEVEL: dict[str, tuple[Any, Any]] = {
    "experiment": (str, "experiment"),
    "runs": (str, "runs"),
    "seed_everything": (bool | int, 0),
    "evaluate_after_fit": (bool, True),
}
"""Type and default of each key that has one value."""

PARTS: dict[str, tuple[type, str]] = {
    "model": (pl.LightningModule, "imgrec.ClassificationTask"),
    "data": (pl.LightningDataModule, "imgrec.ImageDataModule"),
}
"""Base class and default ``class_path`` of the keys that name a class."""

TRAINER_DEFAULTS: dict[str, Any] = {
    "logger": False,  # metrics.csv is written without a logger
    "max_epochs": 20,
    "log_every_n_steps": 25,
    "precision": "auto",  # see imgrec.engine.tuning.auto_precision
    "enable_model_summary": False,  # the run folder contains the number of parameters
    "use_distributed_sampler": False,  # ImageDataModule shards by position, without padding
}
"""Arguments of the Trainer whose defaults differ from those of Lightning."""


def resolve(config: Config) -> Config:
    """Return the config with every default of every class and every spec.

    Raises:
        UserError: If a key is unknown or a value is invalid.
    """
    accepted = [*TOP_LEVEL, *PARTS, "trainer"]
    for key in config:
        if key not in accepted:
            raise UserError(f'there is no key "{key}".{suggestion(key, accepted)} Accepted: {", ".join(accepted)}.')
    resolved = {key: check_type(config.get(key, default), hint, key) for key, (hint, default) in TOP_LEVEL.items()}
    resolved["seed_everything"] = _seed(resolved["seed_everything"])
    for key, (base, default) in PARTS.items():
        part = config.get(key) or {}
        if not isinstance(part, Mapping):
            raise UserError(f"{key}: expected a mapping, got {part!r}")
        class_path = part.get("class_path") or default
        cls = find_class(class_path, base, key)
        resolved[key] = {"class_path": class_path, "init_args": with_defaults(cls, part.get("init_args") or {})}
    trainer = config.get("trainer") or {}
    if not isinstance(trainer, Mapping):
        raise UserError(f"trainer: expected a mapping, got {trainer!r}")
    resolved["trainer"] = {**with_defaults(pl.Trainer, {}), **TRAINER_DEFAULTS, **trainer}
    return complete_config(resolved)


def with_defaults(cls: type, arguments: Mapping[str, Any]) -> Config:
    """Return the arguments of a class with its defaults. A spec without a name changes the default spec."""
    complete = {}
    for name, parameter in Entry(cls.__name__, cls).parameters.items():
        default = parameter.default
        value = arguments.get(name, default)
        spec = isinstance(default, str) and isinstance(value, Mapping) and "name" not in value
        if spec and name != "normalize":
            value = {"name": default, **value}
        if value is not parameter.empty:
            complete[name] = value
    for state in ("facts", "load_weights"):  # a checkpoint sets them
        if state not in arguments:
            complete.pop(state, None)
    return {**complete, **{k: v for k, v in arguments.items() if k not in complete}}


def _seed(value: bool | int) -> int:
    """Return the seed of a run, a random one for ``true``."""
    if value is True:
        return random.SystemRandom().randrange(2**32)
    if value is False:
        raise UserError("seed_everything: expected a number, or true for a random one, got false")
    if not 0 <= value < 2**32:
        raise UserError(f"seed_everything: accepted are 0 to {2**32 - 1}, got {value}")
    return value
