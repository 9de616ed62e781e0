"""Signs of life of the process that works in a run folder, and the status of a run that takes them into account."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.errors import ResourceError
from imgrec.utils import json_text
from imgrec.utils.paths import write_text

if TYPE_CHECKING:
    from imgrec.runs.folder import RunFolder

PROCESS = ".process.json"
"""The file that identifies the process; the time of its last change is the last sign of life."""

KILLED = "killed"
"""The status of a run whose process no longer exists, and could not write another one."""

_EVERY = 10.0
"""Seconds between two signs of life."""

_SILENT = 120.0
"""Seconds without a sign of life after which a process on another machine counts as dead."""


class Heartbeat:
    """Signs of life of this process in a run folder, written by a thread until :meth:`stop`.

    The thread also notices that the folder was deleted, moved or replaced.

    Args:
        run: The run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._path = run / PROCESS
        self._own = os.getpid()
        self._end = threading.Event()
        self.lost = False
        """True once the folder is gone."""
        write_text(self._path, json.dumps(identity()) + "\n")
        self._folder = run.stat()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Look at the folder now.

        Raises:
            ResourceError: If it was deleted, moved or replaced.
        """
        self.lost = self.lost or _is_gone(self._run, self._folder)
        if self.lost:
            raise ResourceError(
                f"the run folder {self._run} was deleted or moved during the run: the run ends, and nothing is written."
            )

    def stop(self) -> None:
        """End the signs of life and remove the file."""
        self._end.set()
        if not self.lost and os.getpid() == self._own:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._end.wait(_EVERY):
            self.lost = self.lost or _is_gone(self._run, self._folder)
            with contextlib.suppress(OSError):
                os.utime(self._path)


def is_alive(run: str | os.PathLike[str]) -> bool:
    """Return True if a process works in a run folder.

    A process of this machine is found by its number, and by the time when it started, since numbers are used again.
    For another machine, or after a restart of this one, the age of the last sign of life decides.

    Args:
        run: The run folder.
    """
    path = Path(run) / PROCESS
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"))
        last = path.stat().st_mtime
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict):
        return False
    ours = identity()
    if all(found.get(key) == ours[key] for key in ("host", "boot", "namespace")):
        return started(found.get("pid")) == found.get("started") is not None
    if found.get("host") == ours["host"] and last < _boot_time():
        return False
    return time.time() - last < _SILENT


def status_of(run: RunFolder) -> str:
    """Return the status of a run: that of summary.json, but ``killed`` if it claims to run and no process does.

    Before the first summary it is ``starting`` while a process works in the folder, and ``unfinished`` otherwise.

    Args:
        run: The run folder.

    Raises:
        UserError: If summary.json cannot be read.
    """
    status = run.summary.get("status")
    if status not in (None, "running"):
        return str(status)
    if is_alive(run):
        return "starting" if status is None else "running"
    return "unfinished" if status is None else KILLED


def identity() -> dict[str, Any]:
    """Return what identifies this process among all that may share the run folder, after a restart too."""
    return {
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
    }


def started(process: Any) -> int | None:
    """Return when a process of this machine started, in units of the system; ``None`` if there is none.

    A process that has ended, and that its parent has not waited for yet, does not count. On a system without ``/proc``
    the result is 0 for every process that exists.

    Args:
        process: Number of the process.
    """
    if not isinstance(process, int) or process <= 0:
        return None
    if not Path("/proc/self/stat").exists():
        return 0 if _exists(process) else None
    fields = _text(f"/proc/{process}/stat").rpartition(")")[2].split()  # the name before may hold anything
    return int(fields[19]) if len(fields) > 19 and fields[0] not in ("Z", "X") else None


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_time() -> float:
    """Return when this machine started, in seconds since 1970; 0 if that is not known."""
    lines = _text("/proc/stat").splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), 0.0)


def _is_gone(folder: Path, before: os.stat_result) -> bool:
    """Return True if ``folder`` does not exist any more, or is another one than before."""
    try:
        return not os.path.samestat(folder.stat(), before)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a file system that does not answer for a while
        return False


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
