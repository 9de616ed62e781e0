"""Messages and exit statuses for interrupts and for failures of the machine, such as a full disk."""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Iterator

from imgrec.errors import ResourceError, UserError
from imgrec.utils.signals import Preempted, is_first_process, signal_name
from imgrec.utils.terminal import print

INTERRUPTED = 1
"""Exit status after Ctrl-C."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_WORKER = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: ([^.]+)|exited)")
_DISTRIBUTED = ("DistBackendError", "DistNetworkError", "DistStoreError")
_LOST_PEER = re.compile(r"gloo.*(?:Connection closed by peer|Connection reset by peer|Broken pipe|Timed out)", re.S)


def exit_status(error: BaseException) -> int | None:
    """Print the message of an error, and return the exit status, or ``None`` for a programming error.

    Args:
        error: Exception that ended the command.
    """
    if isinstance(error, KeyboardInterrupt) or _interrupted(error):
        if is_first_process():
            _print("interrupted by Ctrl-C")
        return INTERRUPTED
    if isinstance(error, Preempted):
        if not error.announced and error.code:
            _print(f"ended by {signal_name(error.number)}")
        return int(str(error.code))
    found = as_user_error(error)
    if found is None:
        return None
    _print(f"error: {found}")
    return found.status


def as_user_error(error: BaseException) -> UserError | None:
    """Return the error of a failed resource: a loader worker, another process of the training, or a disk.

    Args:
        error: Exception that was raised. Its causes are searched as well.
    """
    return next((found for each in _chain(error) if (found := _translated(each)) is not None), None)


def _translated(error: BaseException) -> UserError | None:
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return ResourceError(f"{error.filename or 'a file'} cannot be written: {error.strerror}.")
    if not isinstance(error, RuntimeError):
        return None
    if (worker := _WORKER.search(str(error))) is not None:
        return ResourceError(_lost_worker(worker[1], worker[2]))
    if type(error).__name__ in _DISTRIBUTED or _LOST_PEER.search(str(error)):
        from imgrec.callbacks.rank_watch import lost_rank

        lost = lost_rank(seconds=3.0) or "another process of the training has ended"
        return ResourceError(
            f"{lost}, and this process cannot continue without it. See its own message, or the system log if it was "
            "killed, for the reason. `imgrec resume RUN` continues from the last checkpoint."
        )
    return None


def _lost_worker(processes: str, signal: str | None) -> str:
    ended = f"was killed by the signal {signal.strip()}" if signal else "exited unexpectedly"
    return (
        f"a worker process that loads images (process {processes.strip()}) {ended}. A common reason is exhausted "
        "memory, or exhausted shared memory in /dev/shm. Reduce data.num_workers or data.batch_size."
    )


def _interrupted(error: BaseException) -> bool:
    """Return True if this is Lightning's exit after Ctrl-C, which prints nothing."""
    return type(error) is SystemExit and isinstance(error.__context__, KeyboardInterrupt)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _print(text: str) -> None:
    print(f"imgrec: {text}", file=sys.stderr, flush=True)
