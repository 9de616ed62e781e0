"""The signals that request a process to end, SIGTERM and SIGHUP, and the exit status that they lead to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

PREEMPTED = 75
"""The exit status of a training that a signal ended: EX_TEMPFAIL of sysexits, "try again later"."""

_RANK = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
"""Environment variables that hold the rank of a process, the first that is set decides."""


class Preempted(SystemExit):
    """The end of a process that SIGTERM or SIGHUP requested; the exit status is 75 in the first process, 0 in others.

    Args:
        number: Number of the signal.
        first: True in the process whose exit status the caller sees. By default, the process of rank 0.
        announced: True if a message about the end was printed already.
    """

    def __init__(self, number: int, first: bool | None = None, announced: bool = False) -> None:
        super().__init__(PREEMPTED if (is_first_process() if first is None else first) else 0)
        self.number = number
        self.announced = announced


def is_first_process() -> bool:
    """Return True if the environment gives this process rank 0, or no rank at all."""
    return next((os.environ[name] for name in _RANK if os.environ.get(name)), "0") == "0"


def ending_signals() -> list[int]:
    """Return the signals that request an end: SIGTERM, and SIGHUP if the system has it and it is not ignored.

    ``nohup`` ignores SIGHUP, so that a training outlives its terminal.
    """
    hang_up = getattr(signal, "SIGHUP", None)
    ignored = hang_up is None or signal.getsignal(hang_up) is signal.SIG_IGN
    return [signal.SIGTERM, *([] if ignored or hang_up is None else [hang_up])]


def signal_name(number: int) -> str:
    """Return the name of a signal, for example ``SIGTERM``."""
    return signal.Signals(number).name


def open_terminals() -> list[int]:
    """Return those of the file descriptors 1 and 2 that are terminals."""
    return [descriptor for descriptor in (1, 2) if _is_terminal(descriptor)]


def silence(descriptors: list[int]) -> None:
    """Discard further output to these file descriptors: a write to a terminal that hung up fails."""
    if descriptors:
        null = os.open(os.devnull, os.O_WRONLY)
        for descriptor in descriptors:
            os.dup2(null, descriptor)
        os.close(null)


def end_by_default(number: int) -> None:
    """End this process as it would have ended without a handler."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def preemptible() -> Iterator[None]:
    """Raise :class:`Preempted` in the main thread when a signal requests an end; a second signal ends at once.

    A training installs handlers of its own inside, which write a checkpoint first. In another thread, and in a worker
    process that was forked from this one, the signals keep their default action.
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
