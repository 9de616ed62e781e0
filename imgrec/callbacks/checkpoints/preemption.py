"""Signals that end a training after the current step, in all processes."""

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
"""Seconds in which a second signal counts as the first one, which srun and the first process may both forward."""


class StopRequest:
    """Request to end a training after the current step, by SIGTERM, SIGHUP or the first Ctrl-C.

    A second signal of the same kind ends the process at once. During a training it replaces the SIGTERM handler of
    Lightning, which ends without a checkpoint and with status 0. SIGHUP stays ignored under nohup. Only the main thread
    receives signals.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._number = int(signal.SIGTERM)
        self._before: dict[int, Any] = {}
        self.report: Callable[[str], None] = lambda message: None

    def listen(self, trainer: pl.Trainer, report: Callable[[str], None]) -> None:
        """Install the signal handlers. A second call does nothing."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        self.report = report
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
            _forward_signal(trainer, number)
            if number != signal.SIGTERM:
                silence(terminals)
            self.report(f"{signal_name(number)}: a checkpoint is written after this step")

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            if os.getpid() != own:
                return  # a worker process that a terminal's Ctrl-C reaches too
            if self._asked:
                raise KeyboardInterrupt
            self._asked = _INTERRUPT
            self.report("Ctrl-C: a checkpoint is written after this step. A second Ctrl-C ends the run at once")

        for number in ending_signals():
            self._before[number] = signal.signal(number, on_term)
        self._before[signal.SIGINT] = signal.signal(signal.SIGINT, on_interrupt)
        # Lightning would broadcast at every batch, without effect
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def leave(self) -> None:
        """Restore the signal handlers. A second call does nothing."""
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def end_at_once(self, trainer: pl.Trainer) -> None:
        """Allow SIGTERM and SIGHUP to end an evaluation. Lightning would ignore these signals."""
        own, terminals = os.getpid(), open_terminals()

        def preempt(number: int, frame: FrameType | None) -> None:
            if os.getpid() != own:
                end_by_default(number)
            _forward_signal(trainer, number)
            if number != signal.SIGTERM:
                silence(terminals)
            raise Preempted(number, trainer.is_global_zero)

        if threading.current_thread() is threading.main_thread():
            for number in ending_signals():
                signal.signal(number, preempt)

    def needs_checkpoint(self, reason: int) -> bool:
        """Return True if a training that ends for ``reason`` writes a checkpoint first."""
        return reason in (_TERM, _INTERRUPT)

    def agreed(self, trainer: pl.Trainer, due: bool, failed: bool) -> tuple[bool, int]:
        """Return the decision of all processes: True to write a checkpoint, and the reason to end, or 0.

        Args:
            trainer: Trainer. Every process calls this method at the same step.
            due: True if a checkpoint is due in this process.
            failed: True if this process cannot continue.
        """
        reason = _FAILED if failed else self._asked
        if trainer.world_size == 1:
            return due, reason
        decision = torch.tensor([int(due), reason], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(decision, op=torch.distributed.ReduceOp.MAX)
        due_anywhere, reason = decision.tolist()
        return bool(due_anywhere), int(reason)

    def end(self, trainer: pl.Trainer, reason: int, error: UserError | None) -> None:
        """Raise the exception that ends this process for ``reason``, which is not 0.

        Raises:
            Preempted: If SIGTERM or SIGHUP requested it.
            KeyboardInterrupt: If Ctrl-C requested it.
            UserError: If this process cannot continue.
            SystemExit: If another process cannot continue.
        """
        if reason == _INTERRUPT:
            raise KeyboardInterrupt
        if reason == _TERM:
            raise Preempted(self._number, trainer.is_global_zero, announced=True)
        if error is not None:
            raise error
        raise SystemExit(0)


def _forward_signal(trainer: pl.Trainer, number: int) -> None:
    """Send a signal to the processes that this one launched."""
    launcher = trainer.strategy.launcher
    if launcher is not None:
        launcher.kill(number)
