"""Heartbeat of the process that works in a run folder, and the status of a run."""

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

PROCESS_FILE = ".process.json"
"""File that identifies the process. The time of its last change is the last heartbeat."""

KILLED = "killed"
"""Status of a run whose process does not exist and did not write a final status."""

_INTERVAL = 10.0
"""Seconds between two heartbeats."""

_TIMEOUT = 120.0
"""Seconds without a heartbeat after which a process on another machine counts as dead."""


class Heartbeat:
    """Heartbeat of this process in a run folder, written by a thread until :meth:`stop`.

    The thread also detects that the folder was deleted, moved or replaced.

    Args:
        run: Run folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._path = run / PROCESS_FILE
        self._pid = os.getpid()
        self._end = threading.Event()
        self.lost = False
        """True after the folder was deleted, moved or replaced."""
        write_text(self._path, json.dumps(process_identity()) + "\n")
        self._folder = run.stat()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check the folder.

        Raises:
            ResourceError: If it was deleted, moved or replaced.
        """
        self.lost = self.lost or _is_gone(self._run, self._folder)
        if self.lost:
            raise ResourceError(
                f"the run folder {self._run} was deleted or moved during the run. The run ends without a result."
            )

    def stop(self) -> None:
        """Stop the heartbeat and remove the file."""
        self._end.set()
        if not self.lost and os.getpid() == self._pid:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._end.wait(_INTERVAL):
            self.lost = self.lost or _is_gone(self._run, self._folder)
            with contextlib.suppress(OSError):
                os.utime(self._path)


def is_alive(run: str | os.PathLike[str]) -> bool:
    """Return True if a process works in a run folder.

    A process of this machine is identified by its id and its start time, because ids are reused. For another machine,
    or after a restart of this one, the age of the last heartbeat decides.

    Args:
        run: Run folder.
    """
    path = Path(run) / PROCESS_FILE
    try:
        found = json_text.loads(path.read_text(encoding="utf-8"))
        last = path.stat().st_mtime
    except (OSError, ValueError):
        return False
    if not isinstance(found, dict):
        return False
    own = process_identity()
    if all(found.get(key) == own[key] for key in ("host", "boot", "namespace")):
        return process_start_time(found.get("pid")) == found.get("started") is not None
    if found.get("host") == own["host"] and last < _boot_time():
        return False
    return time.time() - last < _TIMEOUT


def status_of(run: RunFolder) -> str:
    """Return the status of a run: that of summary.json, or ``killed`` if it is ``running`` without a process.

    Before the first summary it is ``starting`` if a process works in the folder, otherwise ``unfinished``.

    Args:
        run: Run folder.

    Raises:
        UserError: If summary.json cannot be read.
    """
    status = run.summary.get("status")
    if status not in (None, "running"):
        return str(status)
    if is_alive(run):
        return "starting" if status is None else "running"
    return "unfinished" if status is None else KILLED


def process_identity() -> dict[str, Any]:
    """Return the identity of this process among all that share the run folder, also after a restart."""
    return {
        "pid": os.getpid(),
        "started": process_start_time(os.getpid()),
        "host": socket.gethostname(),
        "boot": _text("/proc/sys/kernel/random/boot_id"),
        "namespace": _link("/proc/self/ns/pid"),
    }


def process_start_time(pid: Any) -> int | None:
    """Return the start time of a process of this machine in system units, or ``None`` if it does not exist.

    A zombie process counts as not existing. Without ``/proc`` the result is 0 for every existing process.

    Args:
        pid: Process id.
    """
    if not isinstance(pid, int) or pid <= 0:
        return None
    if not Path("/proc/self/stat").exists():
        return 0 if _exists(pid) else None
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()  # the name before may contain any character
    return int(fields[19]) if len(fields) > 19 and fields[0] not in ("Z", "X") else None


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _boot_time() -> float:
    """Return the boot time of this machine in seconds since 1970, or 0 if it is not available."""
    lines = _text("/proc/stat").splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith("btime ")), 0.0)


def _is_gone(folder: Path, before: os.stat_result) -> bool:
    """Return True if ``folder`` was deleted or replaced."""
    try:
        return not os.path.samestat(folder.stat(), before)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a temporary failure of the file system
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
