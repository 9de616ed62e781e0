"""Memory of this process and of the machine, read from the operating system."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

_PROCESS = Path("/proc/self")
_MACHINE = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def process_memory(when: Literal["now", "peak"]) -> int | None:
    """Return the resident memory of this process, or its peak, in bytes, without child processes.

    Returns:
        ``None`` if the system does not report the value. Only Linux reports the present memory.
    """
    name = {"now": "VmRSS:", "peak": "VmHWM:"}[when]  # the peak of getrusage includes the parent process before exec
    with suppress(OSError, ValueError, IndexError):
        for line in (_PROCESS / "status").read_text(encoding="utf-8").splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    if when == "now":
        return None
    with suppress(ImportError, OSError):
        import resource  # not available on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def forget_peak() -> bool:
    """Reset the peak memory of this process. Return True if the system supports it, as Linux does."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def free_memory() -> int | None:
    """Return the memory that this process can still allocate without swapping, in bytes.

    The limit of a container is included.

    Returns:
        ``None`` if the system does not report the value.
    """
    machine = _field(_MACHINE, "MemAvailable:")
    found = [] if machine is None else [machine * 1024]
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        with suppress(OSError, ValueError):  # no such group, or "max" for no limit
            taken = int((_GROUP / used).read_text(encoding="utf-8"))
            files = _field((_GROUP / used).with_name("memory.stat"), cached) or 0
            found.append(max(0, int((_GROUP / limit).read_text(encoding="utf-8")) - taken + files))
    return min(found, default=None)


def _field(file: Path, name: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.split()[0] == name:
                return int(line.split()[1])
    return None
