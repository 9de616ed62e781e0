"""Lock of a run folder: only one process trains in it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from imgrec.errors import UserError
from imgrec.runs.liveness import Heartbeat

LOCK = ".lock"


class RunLock:
    """Exclusive lock of a run folder for training. The end of the process releases it, even if it is killed.

    It is a POSIX record lock on a file in the folder. The kernel holds it, worker processes do not inherit it, and it
    applies to all machines that share the folder over NFS. Systems without such locks (Windows) are not protected.
    While it is held, a :class:`~imgrec.runs.liveness.Heartbeat` is written.

    Args:
        run: Run folder.

    Raises:
        UserError: If another process trains in it.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self._path = Path(run) / LOCK
        self._file: int | None = None
        while self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            holder = _lock(file)
            if holder is None and _is_same_file(self._path, file):
                self._file = file
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
                continue
            os.close(file)
            if holder is not None:
                process = f"process {holder}" if holder else "another process"
                raise UserError(
                    f"the run {Path(run)} is in use: {process} trains in it, on this machine or on one that shares the "
                    "folder"
                )
        self._heartbeat = Heartbeat(Path(run))

    @property
    def lost(self) -> bool:
        """True after the folder was deleted, moved or replaced."""
        return self._heartbeat.lost

    def check(self) -> None:
        """Check that the folder exists.

        Raises:
            ResourceError: If it was deleted, moved or replaced.
        """
        self._heartbeat.check()

    def release(self) -> None:
        """Release the lock. Further calls have no effect."""
        if self._file is not None:
            self._heartbeat.stop()
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def _is_same_file(path: Path, file: int) -> bool:
    """Return True if ``path`` is the open ``file``. Another process may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _lock(file: int) -> str | None:
    """Lock the file and return ``None``, or return its content if another process holds the lock."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return os.pread(file, 32, 0).decode(errors="replace").strip()
    except OSError as error:  # a file system without locks: train without protection
        logging.getLogger(__name__).warning("%s", f"run folders here cannot be locked: {error.strerror or error}")
    return None
