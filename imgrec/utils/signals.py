"""Termination by SIGTERM and SIGHUP, with exit status 75."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PREEMPTED = 75
"""Exit status of a training that a signal ended (EX_TEMPFAIL of sysexits: try again later)."""

_RANK = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
"""Environment variables with the rank of a process, in order of precedence."""


class Preempted(SystemExit):
    """Exit of a process after SIGTERM or SIGHUP, with status 75 in the first process and 0 in the other processes.

    Args:
        number: Number of the signal.
        first: True in the process whose exit status the caller receives. Defaults to the process of rank 0.
        announced: True if a message was printed already. Defaults to False.
    """

    def __init__(self, number: int, first: bool | None = None, announced: bool = False) -> None:
        super().__init__(PREEMPTED if (is_first_process() if first is None else first) else 0)
        self.number = number
        self.announced = announced


def is_first_process() -> bool:
    """Return True if the environment sets rank 0 or no rank for this process."""
    return next((os.environ[name] for name in _RANK if os.environ.get(name)), "0") == "0"


def ending_signals() -> list[int]:
    """Return the signals that terminate a training: SIGTERM, and SIGHUP unless it is ignored.

    ``nohup`` ignores SIGHUP so that a training continues without its terminal.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    ignored = hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN
    return [signal.SIGTERM, *([] if ignored or hang_up is None else [hang_up])]


def signal_name(number: int) -> str:
    """Return the name of a signal, for example ``SIGTERM``."""
    return signal.Signals(number).name


def open_terminals() -> list[int]:
    """Return the file descriptors among 1 and 2 that are terminals."""
    return [descriptor for descriptor in (1, 2) if _is_terminal(descriptor)]


def silence(descriptors: list[int]) -> None:
    """Discard further output to file descriptors. A write to a closed terminal would fail."""
    if descriptors:
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in descriptors:
            os.dup2(null, descriptor)
        os.close(null)


def end_by_default(number: int) -> None:
    """Terminate this process by the default action of a signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def preemptible() -> Iterator[None]:
    """Raise :class:`Preempted` in the main thread after SIGTERM or SIGHUP. A second signal terminates at once.

    A training installs its own handlers inside, which write a checkpoint first. Other threads and forked worker
    processes keep the default action.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own, terminals = os.getpid(), open_terminals()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            end_by_default(number)
            return
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        if number != signal.SIGTERM:
            silence(terminals)
        raise Preempted(number)

    before: dict[int, Any] = {}
    for number in ending_signals():
        before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
