"""Short training of an experiment on copies, without logs, checkpoints or other files."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import GradientAccumulationScheduler

from imgrec.callbacks import remove_hook_overhead
from imgrec.engine.config import Config
from imgrec.engine.experiment import Experiment
from imgrec.engine.fit import merge_configs
from imgrec.engine.instantiate import instantiate
from imgrec.engine.trainer import build_trainer
from imgrec.engine.tuning.memory_meter import release_memory
from imgrec.errors import UserError
from imgrec.tasks.callback import Callback

SHORT_RUN: Config = {
    "callbacks": None,
    "logger": False,
    "enable_checkpointing": False,
    "limit_val_batches": 0,
    "num_sanity_val_steps": 0,
    "num_nodes": 1,
    "strategy": "auto",
    "min_epochs": None,
    "min_steps": None,
    "max_time": None,
    "profiler": None,
}
"""Arguments of the Trainer that replace those of the config."""

_PROCESSES = "WORLD_SIZE"


def read_configs(*configs: str | Path | Mapping[str, Any]) -> Config:
    """Merge one or more files and mappings into one config, later over earlier.

    Raises:
        UserError: If a file cannot be read, or if no config is given.
    """
    if not configs:
        raise UserError("config: expected a file such as experiments/digits/quickstart.yaml or a mapping, got none.")
    return merge_configs(configs)


def prepare_experiment(config: Config) -> Experiment:
    """Build the experiment of a config and replace ``auto`` by measured values, as ``imgrec fit`` does.

    Raises:
        UserError: If the config is invalid, if ``trainer.fast_dev_run`` is set, or if there are several processes.
    """
    if int(os.environ.get(_PROCESSES, "1")) > 1:
        raise UserError(f"{_PROCESSES}: expected 1 for a short run, got {os.environ[_PROCESSES]}.")
    experiment = Experiment(config)
    if experiment.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run: expected false for a short run, got true. It trains one batch.")
    experiment.resolve_auto()
    return experiment


def train_briefly(
    experiment: Experiment,
    *callbacks: pl.Callback,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Train copies of the task, the data module and the callbacks of an experiment for a few steps.

    The training runs on one device and accumulates the batches of the other devices. It has no validation, and it
    writes and logs nothing. Of the callbacks, only those with ``runs_in_short_runs`` run, see
    :class:`imgrec.Callback`. The experiment and the random generators of this process are unchanged afterwards.

    Args:
        experiment: Experiment of :func:`prepare_experiment`.
        callbacks: Further callbacks, one of which stops the training.
        data: Arguments of the data module to replace. Defaults to none.
        trainer: Arguments of the Trainer to replace. Defaults to none.

    Raises:
        UserError: If the training cannot start.
    """
    own = experiment.config["trainer"]
    arguments = {**own, **SHORT_RUN, "devices": _one_device(own.get("devices"))}
    arguments["accumulate_grad_batches"] = experiment.trainer.accumulate_grad_batches * experiment.trainer.world_size
    part = experiment.config["data"]
    spec = {**part, "init_args": {**part["init_args"], **(data or {})}}
    with preserve_rng():
        task = copy.deepcopy(experiment.task, {id(experiment.task._trainer): None})
        module = instantiate(spec, pl.LightningDataModule, "data")
        brief: Any = build_trainer({**arguments, **(trainer or {})}, bare=True)
        brief.callbacks = [
            *(copy.deepcopy(each) for each in experiment.trainer.callbacks if is_step_callback(each)),
            *callbacks,
        ]
        remove_hook_overhead(brief, task)
        try:
            brief.fit(task, datamodule=module)
        except MisconfigurationException as error:
            raise UserError(f"trainer: {error}") from error
        finally:
            del task, module, brief
            release_memory()


def is_step_callback(callback: pl.Callback) -> bool:
    """Return True if a callback is part of a training step, so that a short run needs it."""
    return isinstance(callback, GradientAccumulationScheduler) or (
        isinstance(callback, Callback) and callback.runs_in_short_runs
    )


def skipped_callbacks(experiment: Experiment) -> list[str]:
    """Return the class names of the callbacks of the config that do not run in a short run."""
    given = experiment.config["trainer"].get("callbacks") or []
    listed = given if isinstance(given, list) else [given]
    named = [each if isinstance(each, str) else each["class_path"] for each in listed]
    short = [name.rpartition(".")[2] for name in named]
    running = {type(each).__name__ for each in experiment.trainer.callbacks if is_step_callback(each)}
    return [name for name in short if name not in running]


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restore the states of the default generators of Python, NumPy and torch at the end."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (libraries use it)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _one_device(devices: Any) -> Any:
    """Return the first of the listed devices, or 1 if the config contains a number of devices."""
    if isinstance(devices, str) and "," in devices:
        devices = [int(each) for each in devices.split(",") if each.strip()]
    return [devices[0]] if isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices) else 1
