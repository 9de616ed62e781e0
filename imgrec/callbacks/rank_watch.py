"""Detection of dead processes in a training that Lightning launched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from imgrec.callbacks.recording.current_run import run_folder
from imgrec.errors import ResourceError
from imgrec.runs.summary import update_summary
from imgrec.tasks.callback import Callback
from imgrec.utils.signals import signal_name
from imgrec.utils.terminal import print

_EVERY = 0.5
"""Seconds between two checks."""

_GRACE = 10.0
"""Seconds in which a process may end by its own error, after another one has died."""

_watched: list[subprocess.Popen[bytes]] = []
"""The processes that this one launched, of rank 1 and above."""


class RankWatch(Callback):
    """Callback that ends all processes of a training that Lightning launched when one of these dies.

    A collective operation may wait for a dead process for minutes. The observer of Lightning ends the first process
    with SIGKILL, without a message. Here the first process ends with exit status 6 and prints the rank and its signal,
    unless its own error ends it before. The others end after the first one. Processes of torchrun or SLURM are not
    watched.
    """

    runs_in_short_runs = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Start the watching thread, once per process."""
        launched = list(getattr(trainer.strategy.launcher, "procs", []))
        if launched:
            _silence_observer()
        if launched and launched != _watched:
            _watched[:] = launched
            threading.Thread(target=_watch_ranks, args=(trainer, launched), name="rank-watch", daemon=True).start()
        elif _is_launched(trainer) and not any(each.name == "rank-watch" for each in threading.enumerate()):
            threading.Thread(target=_watch_first, args=(os.getppid(),), name="rank-watch", daemon=True).start()


def lost_rank(seconds: float = 0.0) -> str | None:
    """Return a description of a dead process, or None if all are alive.

    Args:
        seconds: Time to wait for one. An error of the connection comes before the end of the process.
    """
    until = time.monotonic() + seconds
    while _watched:
        for rank, process in enumerate(_watched, start=1):
            if process.poll():
                status = process.returncode
                how = (
                    f"was killed by the signal {signal_name(-status)}" if status < 0 else f"ended with status {status}"
                )
                return f"the process of rank {rank} ({process.pid}) {how}"
        if time.monotonic() >= until:
            break
        time.sleep(0.1)
    return None


def _watch_ranks(trainer: pl.Trainer, launched: list[subprocess.Popen[bytes]]) -> None:
    """Stop the first process if one of the others died and nothing else stops it."""
    while any(process.poll() is None for process in launched) and (found := lost_rank()) is None:
        time.sleep(_EVERY)
    found = lost_rank()
    if found is None:
        return
    time.sleep(_GRACE)
    _end(trainer, f"{found}. The training cannot continue without it.")


def _watch_first(parent: int) -> None:
    """Stop this process after the first process has ended."""
    while os.getppid() == parent:
        time.sleep(_EVERY)
    time.sleep(_EVERY)  # its own error may come first
    sys.stderr.flush()
    os._exit(ResourceError.status)


def _end(trainer: pl.Trainer, why: str) -> None:
    print(f"imgrec: error: {why}", file=sys.stderr, flush=True)
    for process in _watched:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
    folder = run_folder(trainer)
    if folder is not None and folder.is_dir():
        update_summary(folder, {"status": "failed", "error": f"{ResourceError.__name__}: {why}"})
    os._exit(ResourceError.status)


def _is_launched(trainer: pl.Trainer) -> bool:
    """Return True if Lightning launched this process."""
    connector: Any = trainer._accelerator_connector
    environment = connector.cluster_environment
    return isinstance(environment, LightningEnvironment) and environment.local_rank() > 0


def _silence_observer() -> None:
    """Disable the observer of Lightning, which would end this process with SIGKILL."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            vars(thread)["_child_processes"] = []
