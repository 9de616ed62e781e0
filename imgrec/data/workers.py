"""Worker processes of a loader: the signals that they outlive, and their end together with the program's."""

from __future__ import annotations

import atexit
import os
import signal
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from imgrec.utils.signals import end_by_default, ending_signals

_GRACE = 120
"""Seconds that a worker process continues after a signal, for the training to end in its own way."""

_ONE_SIGNAL = 1.0
"""Seconds in which a second signal is the first one on another way."""

_open: weakref.WeakSet[Any] = weakref.WeakSet()
"""The iterators of this process that may have worker processes."""


def outlive_signals(worker: int) -> None:
    """Keep a worker process running when all processes of a job receive a signal: the training needs it for a step.

    A scheduler sends SIGTERM to all of them at once, a terminal SIGHUP or Ctrl-C. The training then writes a checkpoint
    and ends its workers itself. A second SIGTERM or SIGHUP ends a worker at once, and so does the end of the program:
    see :func:`end_with_program`. Workers whose training has died end when they notice.

    Args:
        worker: Number of the worker. Not used.
    """
    own, since = os.getpid(), 0.0

    def outlive(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if os.getpid() != own or (since and time.monotonic() - since > _ONE_SIGNAL):
            end_by_default(number)
        if not since:
            since = time.monotonic()
            signal.alarm(_GRACE)

    for number in ending_signals():
        signal.signal(number, outlive)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def end_with_program(iterator: Iterator[Any]) -> Iterator[None]:
    """Shut down the workers of an iterator when the program ends while it is open.

    torch leaves them to multiprocessing at that moment, which sends SIGTERM and waits for them without a limit.

    Args:
        iterator: An iterator of a DataLoader.
    """
    _open.add(iterator)
    try:
        yield
    finally:
        if not getattr(iterator, "_persistent_workers", False):  # those are open until the loader is gone
            _open.discard(iterator)


@atexit.register  # after torch and multiprocessing, so before their own
def close_workers() -> None:
    """Shut down the workers of every open iterator of this process."""
    for iterator in list(_open):
        with suppress(Exception):
            iterator._shutdown_workers()
    _open.clear()
