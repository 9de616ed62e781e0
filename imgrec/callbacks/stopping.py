"""Signals that ask a training to end, and the agreement of all its processes on the step at which it does."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from imgrec.errors import UserError

PREEMPTED = 75
"""The exit status of a training that SIGTERM ended after a checkpoint: sysexits' EX_TEMPFAIL, "try again later"."""

_TERM, _INTERRUPT, _FAILED = 1, 2, 3
_ONE_SIGNAL = 1.0
"""Seconds in which a second SIGTERM is the first one, come by another way: from srun and from the first process."""


class Preempted(SystemExit):
    """SIGTERM ended the training, after a checkpoint; the exit status is 75, of processes but the first 0."""


class StopRequest:
    """What asks a training to end after the step that it is at: SIGTERM, or the first Ctrl-C.

    A second signal of either kind ends the process at once. Lightning's own way with SIGTERM, to which this one gives
    place while a training runs, broadcasts inside the signal handler, and ends without a checkpoint and with status 0.
    Signals can only be taken by the main thread; in another thread nothing is changed.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._before: dict[int, Any] = {}
        self.said: Callable[[str], None] = lambda message: None

    def listen(self, trainer: pl.Trainer, said: Callable[[str], None]) -> None:
        """Take the signals from now on; a second call does nothing."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self.said = said
        self._asked = 0

        own, since = os.getpid(), 0.0

        def on_term(number: int, frame: FrameType | None) -> None:
            nonlocal since
            again = self._asked == _TERM and time.monotonic() - since > _ONE_SIGNAL
            if again or os.getpid() != own:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            if self._asked == _TERM:
                return
            self._asked, since = _TERM, time.monotonic()
            launcher = trainer.strategy.launcher
            if launcher is not None:
                launcher.kill(number)  # the processes that this one started
            self.said("SIGTERM: a checkpoint is written after this step")

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if os.getpid() != own:
                return  # a worker process that a terminal's Ctrl-C reaches too
            if self._asked:
                raise KeyboardInterrupt
            self._asked = _INTERRUPT
            self.said("Ctrl-C: a checkpoint is written after this step; once more ends the run at once")

        for number, handler in ((signal.SIGTERM, on_term), (signal.SIGINT, on_interrupt)):
            self._before[number] = signal.signal(number, handler)
        # it would be a further collective at every batch, whose answer nobody needs any more
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def leave(self) -> None:
        """Give the signals back; a second call does nothing."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def end_at_once(self) -> None:
        """Let SIGTERM end an evaluation: there is nothing to be saved. Lightning would pass over it."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _preempt)

    def wants_checkpoint(self, reason: int) -> bool:
        """Whether a training that ends for ``reason`` writes a checkpoint first."""
        return reason in (_TERM, _INTERRUPT)

    def agreed(self, trainer: pl.Trainer, due: bool, failed: bool) -> tuple[bool, int]:
        """What all processes do now: whether to write a checkpoint, and why to end, 0 for not at all.

        Args:
            trainer: whose processes they are; every one has to call this at the same step.
            due: whether this process finds that it is time for a checkpoint.
            failed: whether this process cannot go on.
        """
        reason = _FAILED if failed else self._asked
        if trainer.world_size == 1:
            return due, reason
        told = torch.tensor([int(due), reason], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(told, op=torch.distributed.ReduceOp.MAX)
        due_anywhere, reason = told.tolist()
        return bool(due_anywhere), int(reason)

    def end(self, trainer: pl.Trainer, reason: int, error: UserError | None) -> None:
        """End this process for ``reason``, which is not 0.

        Raises:
            Preempted: SIGTERM asked for it.
            KeyboardInterrupt: Ctrl-C did.
            UserError: a process cannot go on; on the others, SystemExit.
        """
        if reason == _INTERRUPT:
            raise KeyboardInterrupt
        if reason == _TERM:
            raise Preempted(PREEMPTED if trainer.is_global_zero else 0)
        if error is not None:
            raise error
        raise SystemExit(0)


def _preempt(number: int, frame: FrameType | None) -> None:
    raise Preempted(PREEMPTED)
