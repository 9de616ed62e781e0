"""One process at a time trains in a run folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from imgrec.errors import UserError
from imgrec.runs.liveness import Heartbeat

LOCK = ".lock"


class RunLock:
    """The right to train in a run folder; a process that ends in any way, killed too, gives it back.

    It is a POSIX record lock on a file in the folder: the kernel holds it, worker processes do not inherit it, and
    machines that share the folder over NFS see one another's. A system without such locks (Windows) locks nothing.
    While it is held, :class:`~imgrec.runs.liveness.Heartbeat` shows to readers that the run is alive.

    Args:
        run: the run folder.

    Raises:
        UserError: another process trains in it.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self._path = Path(run) / LOCK
        self._file: int | None = None
        while self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            holder = _lock(file)
            if holder is None and _is_still(self._path, file):
                self._file = file
                os.ftruncate(file, 0)
                os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
                continue
            os.close(file)
            if holder is not None:
                who = f"process {holder}" if holder else "a process"
                where = "on this machine, or on one that shares the folder"
                raise UserError(f"the run {Path(run)} is in use: {who} trains in it ({where})")
        self._heartbeat = Heartbeat(Path(run))

    @property
    def lost(self) -> bool:
        """True once the folder was deleted, moved or replaced."""
        return self._heartbeat.lost

    def check(self) -> None:
        """Look whether the folder is still there.

        Raises:
            ResourceError: If it was deleted, moved or replaced.
        """
        self._heartbeat.check()

    def release(self) -> None:
        """Give the folder back; a second time does nothing."""
        if self._file is not None:
            self._heartbeat.stop()
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


def _is_still(path: Path, file: int) -> bool:
    """Whether ``file`` is what stands at ``path``: another process may just have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file))
    except FileNotFoundError:
        return False


def _lock(file: int) -> str | None:
    """``None`` where the lock was free and is held now; else what the file says of its holder."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return os.pread(file, 32, 0).decode(errors="replace").strip()
    except OSError as error:  # a file system without locks: better to train than to refuse for good
        logging.getLogger(__name__).warning("%s", f"run folders here cannot be locked: {error.strerror or error}")
    return None
