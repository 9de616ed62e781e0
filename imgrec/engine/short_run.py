"""A few steps of the very training that a config means, on copies of everything, which leave no trace."""

from __future__ import annotations

import copy
import gc
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
from pytorch_lightning.utilities.memory import is_oom_error

from imgrec.callbacks import make_lean
from imgrec.engine.config import Config
from imgrec.engine.experiment import Experiment, build_trainer
from imgrec.engine.fit import merge_configs
from imgrec.engine.instantiate import instantiate
from imgrec.errors import UserError
from imgrec.tasks.callback import Callback
from imgrec.utils.memory import forget_peak, free_memory, process_memory

BRIEF: Config = {
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
"""What a trainer of a few steps has in the place of the config's own."""

_PROCESSES = "WORLD_SIZE"


def config_of(*given: str | Path | Mapping[str, Any]) -> Config:
    """Merge files and mappings into one config, later over earlier.

    Raises:
        UserError: If a file cannot be read, or if no config is given.
    """
    if not given:
        raise UserError("config: expected a file such as experiments/digits/quickstart.yaml or a mapping, got none.")
    return merge_configs(given)


def prepare_experiment(config: Config) -> Experiment:
    """What the config builds, with what `imgrec fit` would measure first measured.

    Raises:
        UserError: something in the config is wrong, or there is nothing to try out.
    """
    if int(os.environ.get(_PROCESSES, "1")) > 1:
        raise UserError(f"a trial runs in one process, and {_PROCESSES} is {os.environ[_PROCESSES]}")
    experiment = Experiment(config)
    if experiment.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run trains a batch or two: there is nothing to try out")
    experiment.resolve_auto()
    return experiment


def train_briefly(
    experiment: Experiment,
    *watching: pl.Callback,
    data: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
) -> None:
    """Begin the training that an experiment would begin, on copies of its task, data and callbacks.

    It runs on one device: batches of other devices are accumulated. There is no validation, nothing is logged or
    written, and only callbacks with ``runs_in_short_runs`` run, see :class:`imgrec.Callback`.
    Afterwards the experiment, its parts and the random generators of this process are as they were.

    Args:
        experiment: see :func:`prepare_experiment`.
        watching: further callbacks, which say when to stop.
        data: arguments of the data module to change.
        trainer: arguments of the trainer to change.

    Raises:
        UserError: the training cannot begin.
    """
    own = experiment.config["trainer"]
    arguments = {**own, **BRIEF, "devices": _one_device(own.get("devices"))}
    arguments["accumulate_grad_batches"] = experiment.trainer.accumulate_grad_batches * experiment.trainer.world_size
    part = experiment.config["data"]
    spec = {**part, "init_args": {**part["init_args"], **(data or {})}}
    with preserve_rng():
        task = copy.deepcopy(experiment.task, {id(experiment.task._trainer): None})
        module = instantiate(spec, pl.LightningDataModule, "data")
        brief: Any = build_trainer({**arguments, **(trainer or {})}, bare=True)
        brief.callbacks = [
            *(copy.deepcopy(each) for each in experiment.trainer.callbacks if is_step_callback(each)),
            *watching,
        ]
        make_lean(brief, task)
        try:
            brief.fit(task, datamodule=module)
        except MisconfigurationException as error:
            raise UserError(f"trainer: {error}") from error
        finally:
            del task, module, brief
            _let_go()


def is_step_callback(callback: pl.Callback) -> bool:
    """Return True if a callback is part of a training step, so that a short run needs it."""
    return isinstance(callback, GradientAccumulationScheduler) or (
        isinstance(callback, Callback) and callback.runs_in_short_runs
    )


def left_out(experiment: Experiment) -> list[str]:
    """The classes of the config's own callbacks that do not run in a trial."""
    given = experiment.config["trainer"].get("callbacks") or []
    named = [each if isinstance(each, str) else each["class_path"] for each in _listed(given)]
    short = [name.rpartition(".")[2] for name in named]
    running = {type(each).__name__ for each in experiment.trainer.callbacks if is_step_callback(each)}
    return [name for name in short if name not in running]


class MemoryMeter:
    """The memory of a device that this process takes, beyond what it had at the beginning.

    Args:
        device: a GPU, whose memory torch counts; or the CPU, of which the system says it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        _let_go()
        self._before = 0 if device.type == "cuda" else process_memory("now") or 0

    def free(self) -> int | None:
        """The bytes that are free now; ``None`` where nobody says it."""
        if self.device.type == "cuda":
            return torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        return free_memory()

    def reset_peak(self) -> None:
        """Forget the peak."""
        _let_go()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            forget_peak()  # where a system cannot, the peak is that of the largest batch so far, which is the last

    def peak(self) -> int:
        """The most bytes that were taken at once since then."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_reserved(self.device)
        return max(0, (process_memory("peak") or 0) - self._before)

    @staticmethod
    def is_exhausted(error: RuntimeError) -> bool:
        """Whether an error says that there was no memory left."""
        return bool(is_oom_error(error))


@contextmanager
def preserve_rng() -> Iterator[None]:
    """The default generators of Python, NumPy and torch are afterwards as they were."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (libraries draw from it)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _one_device(devices: Any) -> Any:
    """The first of the devices that a config names; one, where it gives their number."""
    if isinstance(devices, str) and "," in devices:
        devices = [int(each) for each in devices.split(",") if each.strip()]
    return [devices[0]] if isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices) else 1


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _let_go() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
