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
from imgrec.utils.signals import Preempted, end_by_default, ending_signals, open_terminals, signal_name, silence

_TERM, _INTERRUPT, _FAILED = 1, 2, 3
_ONE_SIGNAL = 1.0
"""Seconds in which a second signal is the first one on another way: from srun and from the first process."""


class StopRequest:
    """A request to end a training after the current step: SIGTERM, SIGHUP, or the first Ctrl-C.

    A second signal of either kind ends the process at once. It replaces Lightning's handler of SIGTERM while a training
    runs: that one broadcasts inside the handler, and ends without a checkpoint and with status 0. SIGHUP is left alone
    if it is ignored, as under nohup. Only the main thread receives signals; in another thread nothing is changed.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._number = int(signal.SIGTERM)
        self._before: dict[int, Any] = {}
        self.said: Callable[[str], None] = lambda message: None

    def listen(self, trainer: pl.Trainer, said: Callable[[str], None]) -> None:
        """Take the signals from now on; a second call does nothing."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self.said = said
        self._asked = 0

        own, since, terminals = os.getpid(), 0.0, open_terminals()

        def on_term(number: int, frame: FrameType | None) -> None:
            nonlocal since
            again = self._asked == _TERM and time.monotonic() - since > _ONE_SIGNAL
            if again or os.getpid() != own:
                end_by_default(number)
            if self._asked == _TERM:
                return
            self._asked, self._number, since = _TERM, number, time.monotonic()
            _hand_on(trainer, number)
            if number != signal.SIGTERM:
                silence(terminals)
            self.said(f"{signal_name(number)}: a checkpoint is written after this step")

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if os.getpid() != own:
                return  # a worker process that a terminal's Ctrl-C reaches too
            if self._asked:
                raise KeyboardInterrupt
            self._asked = _INTERRUPT
            self.said("Ctrl-C: a checkpoint is written after this step; once more ends the run at once")

        for number in ending_signals():
            self._before[number] = signal.signal(number, on_term)
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, on_interrupt)
        # it would be a further collective at every batch, whose answer nobody needs any more
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def leave(self) -> None:
        """Give the signals back; a second call does nothing."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def end_at_once(self, trainer: pl.Trainer) -> None:
        """Let SIGTERM and SIGHUP end an evaluation: there is nothing to be saved. Lightning would ignore them."""
        own, terminals = os.getpid(), open_terminals()

        def preempt(number: int, frame: FrameType | None) -> None:
            if os.getpid() != own:
                end_by_default(number)
            _hand_on(trainer, number)
            if number != signal.SIGTERM:
                silence(terminals)
            raise Preempted(number, trainer.is_global_zero)

        if threading.current_thread() is threading.main_thread():
            for number in ending_signals():
                signal.signal(number, preempt)

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
            Preempted: If SIGTERM or SIGHUP requested it.
            KeyboardInterrupt: If Ctrl-C requested it.
            UserError: If a process cannot continue; in the others, SystemExit.
        """
        if reason == _INTERRUPT:
            raise KeyboardInterrupt
        if reason == _TERM:
            raise Preempted(self._number, trainer.is_global_zero, announced=True)
        if error is not None:
            raise error
        raise SystemExit(0)


def _hand_on(trainer: pl.Trainer, number: int) -> None:
    """Send a signal to the processes that this one launched."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(number)
