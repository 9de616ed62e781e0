"""Tests of failing commands: one message, the documented exit status and no traceback."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from imgrec.cli import main as entry
from imgrec.errors import UserError
from imgrec.utils.signals import Preempted, preemptible

DOCS = Path(__file__).parents[2] / "docs" / "exit-status.md"
WORKER = "DataLoader worker (pid 4711) is killed by signal: Killed. "
WORKERS = "DataLoader worker (pid(s) 4711, 4712) exited unexpectedly"
GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:58393"


class DistBackendError(RuntimeError):
    """An error with the name that torch.distributed uses."""


def raises(error: BaseException, cause: BaseException | None = None) -> Callable[[], int]:
    def run() -> int:
        raise error from cause

    return run


def interrupted_in_lightning() -> int:
    """Check the message, because Lightning converts Ctrl-C into a silent exit."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise SystemExit(1)  # noqa: B904


def killed(number: int) -> Callable[[], int]:
    def run() -> int:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal did not arrive")

    return run


@pytest.mark.parametrize(
    ("run", "status", "message"),
    [
        (raises(KeyboardInterrupt()), 1, "interrupted by Ctrl-C"),
        (interrupted_in_lightning, 1, "interrupted by Ctrl-C"),
        (raises(RuntimeError(WORKER)), 6, "error: a worker process that loads images (process 4711) was killed by the"),
        (
            raises(RuntimeError(WORKERS)),
            6,
            "(process 4711, 4712) exited unexpectedly. A common reason is exhausted memory",
        ),
        (raises(ArithmeticError("of a caller"), RuntimeError(WORKER)), 6, "Reduce data.num_workers"),
        (raises(RuntimeError(GLOO)), 6, "error: another process of the training has ended"),
        (raises(DistBackendError("NCCL error")), 6, "error: another process of the training has ended"),
        (raises(OSError(errno.ENOSPC, "No space left on device", "a.csv")), 6, "a.csv cannot be written: No space"),
        (raises(UserError("seen")), 2, "error: seen"),
        (killed(signal.SIGTERM), 75, "ended by SIGTERM"),
        (killed(signal.SIGHUP), 75, "ended by SIGHUP"),
    ],
)
def test_failure_has_one_message_and_status(
    run: Callable[[], int],
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module: Any = ModuleType("command")
    module.run = lambda command, arguments: run()
    monkeypatch.setattr(entry, "import_module", lambda name: module)
    before = signal.getsignal(signal.SIGTERM)
    assert entry.main(["fit"]) == status
    output = capsys.readouterr().err
    assert message in output
    assert output.count("\n") == 1
    assert "Traceback" not in output
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("command")
    module.run = lambda command, arguments: raises(RuntimeError("not known"))()
    monkeypatch.setattr(entry, "import_module", lambda name: module)
    with pytest.raises(RuntimeError, match="not known"):
        entry.main(["fit"])


def test_training_under_nohup_survives_hangup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("rank", "status"), [("0", 75), ("1", 0)])
def test_first_process_requests_requeue(rank: str, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(Preempted) as ended, preemptible():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == status


def test_every_status_is_documented() -> None:
    rows = {line.split("|")[1].strip() for line in DOCS.read_text(encoding="utf-8").splitlines() if line[:2] == "| "}
    kinds = {str(kind.status) for kind in _kinds(UserError)}
    assert kinds | {"0", "1", "75"} <= rows


def _kinds(kind: type[UserError]) -> list[type[UserError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _kinds(below))]
